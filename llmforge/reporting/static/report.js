(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  // --- colours: of the theme, or of paper while it is printed
  const paper = make("div", { id: "paper", hidden: "" });
  document.body.append(paper);
  let printing = false;
  const colour = (name) => getComputedStyle(printing ? paper : root).getPropertyValue(name).trim();
  const COLOURS = 6;
  const DASHES = [[], [7, 4], [2, 3], [10, 4, 2, 4], [14, 5], [4, 2, 1, 2]];
  const several = data.runs.length > 1;
  const colourOf = (line, place) => `--c${(several ? line.run : place) % COLOURS}`;
  const dashOf = (line, place) => {
    if (several) return DASHES[(line.run + Math.floor(line.run / COLOURS)) % DASHES.length];
    return DASHES[place % DASHES.length];
  };
  const faded = (name) => `color-mix(in srgb, ${colour(name)} ${several ? 16 : 28}%, transparent)`;

  // --- figures
  const group = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const minus = (text) => text.replace("-", "−");
  const number = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1000) return minus(group.format(value));
    if (size < 1e-3) return minus(value.toExponential(2));
    return minus(value.toFixed(Math.max(3 - Math.floor(Math.log10(size)), 0)));
  };
  const large = (value) => {
    const size = Math.abs(value);
    for (const [unit, scale] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (size >= scale) return `${minus(String(Number((value / scale).toPrecision(3))))}${unit}`;
    }
    return minus(String(Number(value.toPrecision(3))));
  };
  const FORMS = {
    number,
    count: (value) => group.format(value),
    bytes: (value) => `${(value / 1e9).toFixed(2)} GB`,
    percent: (value) => `${Math.round(value)} %`,
    share: (value) => `${(100 * value).toFixed(1)}%`,
  };
  const written = (form, value) => (value == null ? "–" : FORMS[form](value));
  const tick = (form, value) => {
    if (form === "bytes") return `${Number((value / 1e9).toPrecision(3))} GB`;
    if (form === "share") return `${Number((100 * value).toPrecision(3))}%`;
    const size = Math.abs(value);
    return size !== 0 && size < 1e-3 ? minus(Number(value.toPrecision(3)).toExponential()) : size >= 1e4 ? large(value) : minus(String(Number(value.toPrecision(4))));
  };
  const time = (hours) => {
    const seconds = Math.round(hours * 3600);
    if (seconds < 120) return `${seconds} s`;
    if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
    return `${Math.floor(hours)} h ${String(Math.floor((hours % 1) * 60)).padStart(2, "0")} min`;
  };
  const AXES = {
    s: { name: "step", at: (x) => `step ${group.format(Math.round(x))}`, tick: (x) => (Math.abs(x) >= 1e5 ? large(x) : group.format(x)) },
    t: { name: "tokens", at: (x) => `${large(x)} tokens`, tick: large },
    h: { name: "time", at: time, tick: (x, span) => (span < 0.05 ? `${Math.round(x * 3600)} s` : span < 3 ? `${Math.round(x * 60)} min` : `${Number(x.toPrecision(3))} h`) },
  };

  // --- what is shown of all charts at once
  const state = { axis: "s", smoothing: 0, zoom: null };
  const charts = [];

  /** Steps as tokens or hours, between the knots of the run. */
  const along = (run, steps) => {
    const knots = data.runs[run].axis;
    const to = knots[state.axis];
    if (state.axis === "s") return steps;
    let k = 0;
    return steps.map((step) => {
      while (k < knots.s.length - 2 && knots.s[k + 1] < step) k += 1;
      const [a, b] = [knots.s[k], knots.s[k + 1] ?? knots.s[k]];
      const [x, y] = [to[k] ?? 0, to[k + 1] ?? to[k] ?? 0];
      return b > a ? x + ((y - x) * (step - a)) / (b - a) : x;
    });
  };
  /** The mean of two exponential means, of what came before and of what comes after: it does not lag. */
  const smooth = (values) => {
    const keep = state.smoothing / 100;
    const oneWay = (points) => {
      let [mean, weight] = [0, 0];
      return points.map((value) => {
        if (value == null) return null;
        mean = keep * mean + (1 - keep) * value;
        weight = keep * weight + (1 - keep);
        return mean / weight;
      });
    };
    const [before, after] = [oneWay(values), oneWay([...values].reverse()).reverse()];
    return before.map((value, i) => (value == null ? null : (value + after[i]) / 2));
  };
  const smoothable = (chart, line) => chart.noisy && !line.measured && line.count > 20;
  const full = () => {
    let high = 0;
    let low = Infinity;
    for (const { spec } of charts) for (const line of spec.lines) {
      const x = along(line.run, [line.s[0], line.s[line.s.length - 1]]);
      low = Math.min(low, x[0]);
      high = Math.max(high, x[1]);
    }
    return high > low ? [low, high] : [low - 0.5, low + 0.5];
  };

  /** Ticks of a logarithmic axis that are worth a label. */
  const logTicks = (low, high) => {
    const steps = high / low > 5000 ? [1] : high / low > 12 ? [1, 2, 5] : high / low > 3 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : null;
    if (!steps) return null;
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of steps) {
        const value = Number((step * 10 ** power).toPrecision(6));
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    return found;
  };
  const linearTicks = (low, high, most) => {
    const rough = (high - low) / most;
    const base = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((factor) => factor * base >= rough) * base;
    const first = Math.ceil(low / step);
    const count = Math.min(Math.floor(high / step + 1e-9) - first + 1, 3 * most);
    return Array.from({ length: Math.max(count, 0) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  };

  class Chart {
    constructor(figure, spec) {
      this.figure = figure;
      this.spec = spec;
      this.log = spec.log;
      this.off = new Set();
      this.place = figure.querySelector(".plot");
      this.place.tabIndex = 0;
      this.place.setAttribute("role", "group");
      this.place.setAttribute("aria-roledescription", "chart");
      this.place.setAttribute("aria-label", this.told());
      this.button = make("button", { type: "button", class: "log", "aria-pressed": String(this.log) }, "log");
      this.button.setAttribute("aria-label", `log scale: ${spec.title}`);
      this.button.addEventListener("click", () => {
        this.log = !this.log;
        this.button.setAttribute("aria-pressed", String(this.log));
        this.draw();
      });
      figure.querySelector("figcaption").append(this.button);
      this.legend = make("div", { class: "legend" });
      figure.insertBefore(this.legend, this.place);
      this.buttons = spec.lines.map((line, i) => this.key(line, i));
      this.at = make("span", { class: "at" });
      this.legend.append(this.at);
      this.place.addEventListener("keydown", (event) => this.pressed(event));
      this.place.addEventListener("blur", () => this.leave());
    }

    told() {
      const parts = this.spec.lines.map((line) => {
        const known = line.v.filter((value) => value != null);
        return `${line.label} from ${written(this.spec.form, known[0])} to ${written(this.spec.form, known[known.length - 1])}`;
      });
      return `${this.spec.title}: ${parts.join(", ")}. Arrow keys read values, plus and minus zoom, 0 shows all.`;
    }

    key(line, i) {
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [name, value] of [["width", 26], ["height", 10], ["aria-hidden", "true"]]) swatch.setAttribute(name, value);
      const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const shape = { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-width": 2.2, "stroke-dasharray": dashOf(line, i).join(" ") };
      for (const [name, value] of Object.entries(shape)) stroke.setAttribute(name, value);
      stroke.style.stroke = `var(${colourOf(line, i)})`;
      swatch.append(stroke);
      const value = make("span", { class: "value" });
      const label = make("bdi", { class: "label" }, line.label);
      label.title = line.label;
      const button = make("button", { type: "button", "aria-pressed": "true" }, swatch, label, value);
      button.value_ = value;
      button.addEventListener("click", () => {
        if (this.off.has(i)) this.off.delete(i); else this.off.add(i);
        button.setAttribute("aria-pressed", String(!this.off.has(i)));
        this.draw();
      });
      this.legend.append(button);
      return button;
    }

    /** Of each line its points, and its smoothed ones where it has any. */
    tables() {
      const keep = (values) => (this.log ? values.map((value) => (value > 0 ? value : null)) : values);
      const tables = [];
      this.drawn = [];
      this.spec.lines.forEach((line, i) => {
        tables.push([along(line.run, line.s), keep(line.v)]);
        this.drawn.push({ line, i, smoothed: false });
        if (state.smoothing > 0 && smoothable(this.spec, line)) {
          tables.push([along(line.run, line.ms ?? line.s), keep(smooth(line.mv ?? line.v))]);
          this.drawn.push({ line, i, smoothed: true });
        }
      });
      return uPlot.join(tables);
    }

    draw() {
      const { spec } = this;
      const width = this.place.clientWidth;
      const height = this.figure.classList.contains("wide") ? Math.min(340, Math.max(230, width * 0.36)) : 220;
      const cursor = this.plot && this.plot.cursor.left;
      if (this.plot) this.plot.destroy();
      const joined = this.tables();
      const series = this.drawn.map(({ line, i, smoothed }) => {
        const name = colourOf(line, i);
        const fades = !smoothed && state.smoothing > 0 && smoothable(this.spec, line);
        const few = line.measured || line.v.length < 3;
        return {
          label: line.label,
          show: !this.off.has(i),
          stroke: () => (fades ? faded(name) : colour(name)),
          width: fades ? 1 : line.measured || smoothed ? 2 : 1.5,
          dash: fades ? [] : dashOf(line, i),
          spanGaps: false,
          points: { show: few && line.v.length < 120, size: 6, stroke: () => colour(name), fill: () => colour(name) },
        };
      });
      const axis = { stroke: () => colour("--muted"), font: "12px system-ui, sans-serif", ticks: { show: false } };
      const grid = { stroke: () => colour("--faint"), width: 1 };
      const options = {
        width, height, series: [{}, ...series],
        legend: { show: false },
        padding: [8, 22, 0, 0],
        scales: {
          x: { time: false, auto: false, range: () => state.zoom ?? full() },
          y: {
            distr: this.log ? 3 : 1,
            range: (plot, low, high) => {
              if (low == null) return this.log ? [1, 10] : [0, 1];
              const flat = high - low <= 1e-9 * Math.abs(high);  // a smoothed constant is not quite one
              if (this.log) return flat ? [low / 2, high * 2] : [low / 1.06, high * 1.06];
              const room = flat ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
              const floor = low >= 0 && low < 0.12 * high ? 0 : low - room;
              return [floor, high + room];
            },
          },
        },
        axes: [
          { ...axis, grid: { show: false }, size: 28, space: 70, values: (plot, ticks) => ticks.map((x) => AXES[state.axis].tick(x, ticks[ticks.length - 1] - ticks[0])) },
          {
            ...axis, grid, size: 62, gap: 6,
            splits: (plot, at, low, high) => (this.log && logTicks(low, high)) || linearTicks(low, high, height > 260 ? 8 : 5),
            filter: (plot, ticks) => ticks,
            values: (plot, ticks) => ticks.map((value) => tick(spec.form, value)),
          },
        ],
        cursor: {
          y: false,
          drag: { x: true, y: false, setScale: false, dist: 5 },
          points: { size: 7 },
          sync: { key: "curves", setSeries: false, scales: ["x", null], filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
          bind: { dblclick: () => () => { zoom(null); return null; } },
        },
        hooks: {
          setCursor: [() => this.read()],
          setSelect: [(plot) => {
            if (plot.select.width > 5) zoom([plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")]);
            plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          }],
        },
      };
      this.plot = new uPlot(options, joined, this.place);
      if (cursor > 0) this.plot.setCursor({ left: cursor, top: 20 }, false);
      this.read();
    }

    /** Writes the values under the cursor into the legend, or the last ones. */
    read() {
      const { plot, spec } = this;
      if (!plot) return;
      const over = plot.cursor.idx != null && plot.cursor.left >= 0;
      this.drawn.forEach(({ line, i, smoothed }, k) => {
        if (smoothed) return;
        const at = over ? plot.cursor.idxs[k + 1] : null;
        const last = line.v.reduce((found, value) => value ?? found, null);
        this.buttons[i].value_.textContent = written(spec.form, at == null ? last : plot.data[k + 1][at]);
      });
      this.at.textContent = over ? AXES[state.axis].at(plot.data[0][plot.cursor.idx]) : "";
    }

    leave() {
      for (const { plot } of charts) plot.setCursor({ left: -10, top: -10 }, false);
      for (const chart of charts) chart.read();
    }

    pressed(event) {
      const { plot } = this;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const xs = plot.data[0];
      const { min, max } = plot.scales.x;
      const inside = xs.map((x, i) => i).filter((i) => xs[i] >= min && xs[i] <= max);
      if (!inside.length) return;
      const now = plot.cursor.idx != null && plot.cursor.left >= 0 ? inside.indexOf(plot.cursor.idx) : -1;
      const stride = event.shiftKey ? 10 : Math.max(1, Math.round(inside.length / 200));
      const moves = { ArrowRight: now + stride, ArrowLeft: (now < 0 ? inside.length : now) - stride, Home: 0, End: inside.length - 1 };
      if (event.key in moves) {
        const to = inside[Math.min(Math.max(moves[event.key], 0), inside.length - 1)];
        plot.setCursor({ left: plot.valToPos(xs[to], "x"), top: plot.over.clientHeight / 2 }, true);
        const values = this.buttons.map((button, i) => `${this.spec.lines[i].label} ${button.value_.textContent}`);
        $("spoken").textContent = `${this.at.textContent}: ${values.join(", ")}`;
      } else if (event.key === "+" || event.key === "=" || event.key === "-") {
        const middle = now >= 0 ? xs[inside[now]] : (min + max) / 2;
        const factor = event.key === "-" ? 2 : 0.5;
        const [low, high] = full();
        const to = [Math.max(low, middle - (middle - min) * factor), Math.min(high, middle + (max - middle) * factor)];
        zoom(to[0] <= low && to[1] >= high ? null : to);
      } else if (event.key === "0" || event.key === "Escape") zoom(null);
      else return;
      event.preventDefault();
    }
  }

  const zoom = (range) => {
    state.zoom = range;
    $("reset").disabled = range == null;
    const [min, max] = range ?? full();
    for (const { plot } of charts) plot.setScale("x", { min, max });
  };
  const drawAll = () => charts.forEach((chart) => chart.draw());

  const begin = () => {
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      charts.push(new Chart(figure, data.charts[Number(figure.dataset.chart)]));
    }
    if (!charts.length) return;
    const longest = Math.max(...data.charts.flatMap((chart) => chart.lines.map((line) => line.count)));
    state.smoothing = longest > 300 ? 80 : 0;
    const told = () => { $("smoothing-value").textContent = `${state.smoothing} %`; };
    $("smoothing").value = state.smoothing;
    told();
    drawAll();
    let waiting = 0;
    $("smoothing").addEventListener("input", () => {
      state.smoothing = Number($("smoothing").value);
      told();
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(drawAll);
    });
    for (const option of [...$("axis").options]) {
      if (!data.runs.every(({ axis }) => axis[option.value].length && axis[option.value].every((x) => x != null))) option.remove();
    }
    $("axis").addEventListener("change", () => {
      state.axis = $("axis").value;
      zoom(null);
      drawAll();
    });
    $("reset").addEventListener("click", () => zoom(null));
    $("tools").hidden = false;
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(drawAll);
    });
  };

  // --- theme
  const theme = $("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const themed = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
    drawAll();
  };
  const remember = (name) => { try { localStorage.setItem("llmforge-theme", name); } catch { /* a page without storage */ } };
  try { const known = localStorage.getItem("llmforge-theme"); if (known === "dark" || known === "light") root.dataset.theme = known; } catch { /* as above */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    themed();
  });
  dark.addEventListener("change", themed);
  theme.hidden = false;

  // --- paper
  const onPaper = (is) => {
    if (printing === is) return;
    printing = is;
    for (const { plot } of charts) plot.redraw(false);
  };
  addEventListener("beforeprint", () => onPaper(true));
  addEventListener("afterprint", () => onPaper(false));
  matchMedia("print").addEventListener("change", (event) => onPaper(event.matches));

  // --- samples
  const samples = () => {
    const tools = $("sample-tools");
    const places = [...document.querySelectorAll(".samples")];
    const keys = [...new Set(data.samples.flat().map((entry) => (entry.final ? Infinity : entry.step)))].sort((a, b) => a - b);
    if (!tools || !keys.length) return;
    const strategies = [...new Set(data.samples.flat().flatMap((entry) => entry.items.map((item) => item.strategy)))];
    const slider = make("input", { type: "range", min: 0, max: keys.length - 1, step: 1, id: "sample-step" });
    slider.value = keys.length - 1;
    const output = make("output", { for: "sample-step", id: "sample-at" });
    const select = make("select", { id: "sample-strategy" }, make("option", { value: "" }, "every strategy"));
    for (const strategy of strategies) select.append(make("option", { value: strategy }, strategy));
    const show = () => {
      const key = keys[Number(slider.value)];
      output.textContent = key === Infinity ? "finished model" : `step ${group.format(key)}`;
      slider.setAttribute("aria-valuetext", output.textContent);
      for (const place of places) {
        const entry = data.samples[Number(place.dataset.run)].filter((item) => (item.final ? Infinity : item.step) <= key).pop();
        const heading = place.querySelector("h3");
        place.replaceChildren(...(heading ? [heading] : []));
        if (!entry) { place.append(make("p", { class: "when" }, "Nothing was written by then.")); continue; }
        place.append(make("p", { class: "when" }, entry.final ? "Written by the finished model" : `Step ${group.format(entry.step)}`));
        for (const item of entry.items) {
          if (select.value && item.strategy !== select.value) continue;
          const text = make("p", { class: "text" }, make("bdi", { class: "prompt" }, item.prompt), make("bdi", {}, item.text));
          place.append(make("blockquote", {}, make("p", { class: "strategy" }, item.strategy), text));
        }
      }
    };
    slider.addEventListener("input", show);
    select.addEventListener("change", show);
    if (keys.length > 1) tools.append(make("label", {}, "Written at ", slider, output));
    if (strategies.length > 1) tools.append(make("label", {}, "Strategy ", select));
    tools.hidden = !tools.children.length;
    show();
  };

  // --- copying
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = button.nextElementSibling;
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      } catch {
        getSelection().selectAllChildren(text);
      }
    });
  }

  begin();
  themed();
  samples();
})();
