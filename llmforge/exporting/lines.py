"""Lines on which an exported tokenizer is compared with the original: what tokenizers get wrong, in many scripts.

Written for this project; the lines are put together from the phrases below in one fixed way. They are no part of any
corpus, so a tokenizer has not seen them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

_SENTENCES = (
    "The pump loses pressure when the oil is cold, and nobody knows why.",
    "Don't say it's theirs; they'll think we've lost what I'd kept, and you're not sure she'd mind.",
    "DON'T SHOUT: IT'S NOT THEIRS, THEY'LL HEAR WE'VE GONE.",
    "Der Bagger läuft unrund; die Überprüfung der Einspritzdüsen ergab größere Abweichungen.",
    "La excavadora pierde fuerza; ¿has revisado el filtro de combustible? ¡Mañana será otro día!",
    "L'été dernier, à Noël près, où qu'on aille, ça n'a guère changé : voilà l'œuvre.",
    "Wąż zgubił żółtą łódź, a źdźbło trawy się chwieje.",
    "Насос теряет давление, когда масло холодное, и никто не знает почему.",
    "Η αντλία χάνει πίεση όταν το λάδι είναι κρύο.",
    "המשאבה מאבדת לחץ כאשר השמן קר.",
    "تفقد المضخة الضغط عندما يكون الزيت باردا.",
    "जब तेल ठंडा होता है तो पंप का दबाव कम हो जाता है।",
    "เมื่อน้ำมันเย็น ปั๊มจะสูญเสียแรงดัน",
    "油が冷たいとポンプの圧力が下がる。カタカナとひらがな、漢字。",
    "油冷时泵会失压，没有人知道为什么。",
    "油冷時幫浦會失壓，沒有人知道為什麼。",
    "기름이 차가우면 펌프 압력이 떨어진다.",
    "Bơm mất áp suất khi dầu lạnh; không ai biết tại sao.",
    "Yağ soğukken pompa basıncı düşer; İstanbul'da ılık.",
    "Ha az olaj hideg, a szivattyú nyomást veszít; őrült űr.",
)
_CODE = (
    'func main() {\n\tfmt.Println("hello, 世界")\n}',
    'if err != nil { return fmt.Errorf("open %q: %w", path, err) }',
    "for i := 0; i < len(xs); i++ { sum += xs[i]*xs[i] }",
    "def f(x: int = 0) -> dict[str, int]:  # returns {}\n    return {'x': x**2}",
    "SELECT name, COUNT(*) FROM parts WHERE price >= 10.50 GROUP BY name;",
    '<a href="https://example.org/?q=1&r=%20#top">link</a> <!-- note -->',
    '{"id": 17, "tags": ["a", "b"], "ok": true, "none": null}',
    "apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: 3",
    "$ kubectl get pods -n kube-system | grep -v Running > out.txt 2>&1",
    '#include <stdio.h>\nint main(void) { return printf("%d\\n", 0x7fU); }',
    "~/.config/llmforge/*.yaml  C:\\Users\\me\\file.txt  ./a/../b",
    "__init__ self._x snake_case camelCase PascalCase SCREAMING_SNAKE kebab-case",
)
_NUMBERS = (
    "0 1 12 123 1234 12345 1234567890",
    "3.14159 1,234,567.89 1.5e-10 -42 +7 ½ ² ³ ⅷ Ⅻ",
    "2026-11-22T01:02:03Z 10:45 p.m. 99% $5.00 €7,50 ₹100 #3",
    "P0087 SPN 157 FMI 18 E-4711 0x1F 0b1010 192.168.0.1:8080",
    "٣٤٥ ०१२ 一二三 ①②③ １２３",
)
_SYMBOLS = (
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪🇯🇵 ❤️ 😀😃 🧑🏿‍🚀 ☃️ 🏴‍☠️",
    "→ ⇒ ∀x∈ℝ: x² ≥ 0 ∧ ∑ᵢ aᵢ ≤ ∞ √2 ≈ 1.414",
    "… — – ‘single’ “double” «guillemets» „unten“ ‚so‘ •",
    "©®™ §¶†‡ °C µm Ω № ℃ ﬁ ﬂ ß ẞ ŉ ǆ",
    "e\u0301 a\u0308 n\u0303 Å Å \u1e9b\u0323 ﷺ",
    "!?...!!! --- === *** ### @@@ ~~~ ^^^ ||| \\\\ // `code`",
    '(([[{{<<>>}}]])) "\'"\'" ;;,,..::',
    "zero\u200bwidth \u200dnon\u00adbreaking\u00a0space\u2009thin\u3000wide",
    "\U0001f468\u200d\U0001f4bb \U0010ffff \ufffd \u0378 \ue000",
    "x'S y'LL z'Re 'tis ''d ''''' 'm's't",
)
_SPACES = ("", " ", "  ", "\t", "\t\t", "    ", " \t ", "\r\n", "\n", "\n\n", "\r\n\r\n", " \n ", "\u00a0", "\u3000", "\x0b\x0c")
_SPECIAL = (
    "<|endoftext|>",
    "<|pad|>",
    "<|endoftext|><|endoftext|>",
    "<|im_start|>user",
    "</s><s>[INST]",
    "<|endof text|>",
    "< |endoftext|>",
    "<|endoftext|",
)


def verify_lines(own: tuple[str, ...] = ()) -> list[str]:
    """Some 2,700 different texts of a line or a few, always the same ones.

    Args:
        own: The tokenizer's own added tokens, which are put into more of them.
    """
    return list(dict.fromkeys(_lines(own)))


def _lines(own: tuple[str, ...]) -> Iterator[str]:
    phrases = (*_SENTENCES, *_CODE, *_NUMBERS, *_SYMBOLS)
    yield from phrases
    for phrase, space in itertools.product(phrases, _SPACES[1:]):
        yield space + phrase
        yield phrase + space
    for number, (left, right) in enumerate(itertools.product(phrases, _NUMBERS + _SYMBOLS)):
        yield left + _SPACES[number % len(_SPACES)] + right
    for left, right in zip(phrases, phrases[1:] + phrases[:1], strict=True):
        words = left.split()
        yield "\t".join(words) + "\r\n" + " ".join(reversed(right.split()))
        yield "".join(words)
        yield "   ".join(words)
        yield left.upper() + right.lower()
    for number, (phrase, token) in enumerate(itertools.product(phrases, (*_SPECIAL, *own[:64]))):
        place = len(phrase) * (number % 7) // 7
        yield phrase[:place] + token + phrase[place:]
    for token in own:
        yield from (token, token + token, f" {token} x", f"a{token}b", f"\n{token}\n", token[:-1], token.upper())
    for count in (1, 2, 3, 7, 16, 63, 64, 65, 300):
        yield from (" " * count + "x", "x" + "\n" * count, "\t" * count, "a" * count, "1" * count, "!" * count, "é" * count)
