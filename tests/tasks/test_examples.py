"""A task's rows as packed rows: what is learnt, what is cut off, and that the sums are those of the completions."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import forge_trainer, tiny_model

from llmforge.data.collate import PackedCollator
from llmforge.data.prepared import load_prepared
from llmforge.data.rows import BLANK, PackedRows, mask_of, mask_pieces, to_dataset
from llmforge.errors import DataError
from llmforge.losses import IGNORE
from llmforge.tasks.examples import Encoder, Example, fitting_size, pack_examples, prepare_task
from llmforge.tasks.files import BUILT_IN
from llmforge.tasks.rows import Row
from llmforge.tasks.task import Task
from llmforge.tokenization import load

WORDS = "func return err nil if for range string int error path data open close read write".split()
BLOCK = 48


def ragged(count: int = 40, seed: int = 0, longest: int = 9) -> list[Row]:
    """Questions and answers of very uneven length, some longer than a row."""
    source = np.random.RandomState(seed)
    sizes = [source.randint(1, longest, 2) * (4 if place % 7 == 6 else 1) for place in range(count)]
    texts = [[" ".join(source.choice(WORDS, size)) for size in pair] for pair in sizes]
    return [Row(f"rows.jsonl:{place}", {"question": one, "answer": two}) for place, (one, two) in enumerate(texts, start=1)]


def chats(count: int = 20, seed: int = 1) -> list[Row]:
    source = np.random.RandomState(seed)
    said = [
        [
            {"role": ("user", "assistant")[turn % 2], "content": " ".join(source.choice(WORDS, source.randint(1, 6)))}
            for turn in range(2 * source.randint(1, 3))
        ]
        for _ in range(count)
    ]
    return [Row(f"chats.jsonl:{place}", {"messages": messages}) for place, messages in enumerate(said, start=1)]


def test_a_mask_as_pieces_and_back():
    for text, pieces in (("..xx.", [2, 2]), ("xx..x", [0, 2, 2, 1]), (".....", []), ("xxxxx", [0, 5]), ("....x", [4, 1])):
        learnt = np.array([letter == "x" for letter in text])
        assert mask_pieces(learnt).tolist() == pieces
        assert mask_of(mask_pieces(learnt), 5).tolist() == learnt.tolist()


def example(ids: list[int], prompt: int, follows: int = 0) -> Example:
    return Example(np.array(ids, np.uint16), np.arange(len(ids) + 1) >= prompt, follows, 0)


def test_several_examples_share_a_row():
    """The picture in the module's docstring: small letters are 11 to 16, capitals 21 to 24."""
    rows = pack_examples([example([11, 12, 21, 22], 2), example([14, 15, 16, 24], 3), example([11, 23], 1, follows=29)], 12, 0, 1)
    batch = PackedCollator()(PackedRows(to_dataset(rows), pad=1).__getitems__([0, 1, BLANK]))
    assert batch["input_ids"].tolist() == [[0, 11, 12, 21, 22, 0, 14, 15, 16, 24, 1, 1], [0, 11, 23] + [1] * 9, [1] * 12]
    assert batch["shift_labels"].tolist() == [
        [IGNORE, IGNORE, 21, 22, 0, IGNORE, IGNORE, IGNORE, 24, 0, IGNORE, IGNORE],
        [IGNORE, 23, 29] + [IGNORE] * 9,
        [IGNORE] * 12,
    ]
    assert batch["labels"][:, 1:].tolist() == batch["shift_labels"][:, :-1].tolist()
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_rows_one_by_one_are_the_rows_of_a_batch(tokenizer_folder):
    data = prepare_task({"train": ragged()}, BUILT_IN["qa"], tokenizer_folder, BLOCK)
    rows = pickle.loads(pickle.dumps(data.rows("train")))
    places = [3, BLANK, 0, len(rows) - 1]
    one, other = PackedCollator()([rows[place] for place in places]), PackedCollator()(rows.__getitems__(places))
    assert all(torch.equal(one[name], other[name]) for name in ("input_ids", "position_ids", "labels", "shift_labels"))
    assert (other["shift_labels"][1] == IGNORE).all()
    assert sorted(rows[0]) == ["input_ids", "loss_mask", "segment_documents", "segment_lengths", "segment_targets"]


def counted(model, task: Task, rows: list[Row], tokenizer, completion_only: bool = True) -> tuple[float, int]:
    """Negative log-likelihood and number of the targets that are learnt, example by example, from stock logits.

    Written without the library's own code for it: this is what it is compared with.
    """
    model.eval()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    total, count = 0.0, 0
    for row in rows:
        ids, learnt = [tokenizer.eos_token_id], []
        for text, is_answer in task.pieces(row.values):
            part = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += part
            learnt += [is_answer or not completion_only] * len(part)
        ids, learnt = [*ids, tokenizer.eos_token_id], [*learnt, True]
        goals = ids[1:]
        if len(goals) > BLOCK:  # cut on the left; what is left starts like any document
            goals, learnt = goals[-BLOCK:], learnt[-BLOCK:]
            ids = [tokenizer.eos_token_id, *goals]
        with torch.no_grad():
            logits = type(inner).forward(inner, torch.tensor([ids[:-1]])).logits[0].double()
        for logit, goal, wanted in zip(logits, goals, learnt, strict=True):
            if wanted:
                total += float(torch.logsumexp(logit, -1) - logit[goal])
                count += 1
    return total, count


@pytest.mark.parametrize("kind", ["qa", "chat"])
def test_the_sums_are_those_of_the_completions(tokenizer, tokenizer_folder, tmp_path, preset, kind):
    """In evaluation at two batch sizes, and in training by the lean loss and by stock's."""
    task, rows = BUILT_IN[kind], ragged() if kind == "qa" else chats()
    for completion_only in (True, False):
        data = prepare_task({"train": rows}, task, tokenizer_folder, BLOCK, completion_only)
        packed = data.rows("train")
        assert len(packed) < len(rows)  # examples share rows
        model = tiny_model(preset, tokenizer)
        nll, count = counted(model, task, rows, tokenizer, completion_only)
        assert data.card["splits"]["train"]["learnt_tokens"] == count
        for size in (1, 7):
            trainer = forge_trainer(model, tokenizer, tmp_path, evaluate=packed, per_device_eval_batch_size=size)
            metrics = trainer.evaluate()
            assert metrics["eval_tokens"] == count
            assert metrics["eval_loss"] == pytest.approx(nll / count, rel=1e-6)
        batch = PackedCollator()(packed.__getitems__(list(range(len(packed)))))
        model.train()
        for lean in (True, False):
            model.lean_loss = lean
            assert float(model(**batch, num_items_in_batch=count).loss.detach()) == pytest.approx(nll / count, rel=1e-5)


def test_trainer_counts_the_targets_that_are_learnt(tokenizer, tokenizer_folder, tmp_path):
    """Accumulation divides by them: two micro-batches make the step that one batch makes."""
    data = prepare_task({"train": ragged(24)}, BUILT_IN["qa"], tokenizer_folder, BLOCK)
    losses = []
    for size, accumulation in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "max_steps": 2}
        trainer = forge_trainer(tiny_model("neox-10m", tokenizer), tokenizer, tmp_path, data.rows("train"), **settings)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_longer_than_the_context_is_cut_on_the_tasks_side(text_tokenizer, side):
    task = dataclasses.replace(BUILT_IN["completion"], truncate=side)
    prompt, completion = " ".join(WORDS), " " + " ".join(reversed(WORDS))
    one, two = text_tokenizer.encode([prompt, completion])
    whole, end = [*one.tolist(), *two.tolist()], text_tokenizer.end_of_text
    size = len(one) + 4
    encoder = Encoder(task, text_tokenizer, size)
    [found] = encoder.examples([Row("rows:1", {"prompt": prompt, "completion": completion})])
    most = size - 1
    if side == "left":
        assert found.ids.tolist() == whole[-most:]
        assert found.learnt.tolist() == [False] * (most - len(two)) + [True] * (len(two) + 1)
        assert found.follows == end
    else:
        assert found.ids.tolist() == whole[:most]
        assert found.learnt.tolist() == [False] * len(one) + [True] * 4
        assert found.follows == whole[most]
    assert found.cut == len(whole) - most


def test_what_is_cut_and_what_is_lost_is_counted(tokenizer_folder, caplog):
    task = dataclasses.replace(BUILT_IN["qa"], truncate="right")
    rows = [*ragged(6, longest=3), Row("rows.jsonl:7", {"question": " ".join(WORDS * 3), "answer": "so"})]
    rows.append(Row("rows.jsonl:8", {"question": "why", "answer": " ".join(WORDS * 3)}))
    data = prepare_task({"train": rows, "validation": ragged(3, seed=5, longest=3)}, task, tokenizer_folder, 32)
    assert data.card["truncated"] == {"train": 2, "validation": 0}
    assert data.card["dropped"]["examples"] == {"completion that the cut leaves nothing of": ["rows.jsonl:7"]}
    assert data.card["splits"]["train"]["documents"] == 7
    told = (data.path / "data_card.md").read_text(encoding="utf-8")
    assert "| train | 7 |" in told
    assert "left out: " in told
    assert "train: of 2 rows the end is cut off: they are longer than the context of 32 tokens" in caplog.text
    assert data.document_names([6, 7]) == ["rows.jsonl:8", "rows.jsonl:1"]
    with pytest.raises(DataError, match="The train split has nothing to learn"):
        prepare_task({"train": rows[6:7]}, task, tokenizer_folder, 32)


def test_it_is_made_once(tokenizer_folder):
    first = prepare_task({"train": ragged(8)}, BUILT_IN["qa"], tokenizer_folder, BLOCK)
    stamp = (first.path / "data_card.json").stat().st_mtime_ns
    again = prepare_task({"train": ragged(8)}, BUILT_IN["qa"], tokenizer_folder, BLOCK)
    assert (again.path, (again.path / "data_card.json").stat().st_mtime_ns) == (first.path, stamp)
    others = [
        prepare_task({"train": ragged(9)}, BUILT_IN["qa"], tokenizer_folder, BLOCK),
        prepare_task({"train": ragged(8)}, BUILT_IN["qa"], tokenizer_folder, BLOCK + 1),
        prepare_task({"train": ragged(8)}, BUILT_IN["qa"], tokenizer_folder, BLOCK, completion_only=False),
        prepare_task({"train": ragged(8)}, dataclasses.replace(BUILT_IN["qa"], truncate="right"), tokenizer_folder, BLOCK),
    ]
    assert len({data.path for data in (first, *others)}) == 5
    assert load_prepared(first.path).fingerprint == first.fingerprint


def test_the_tokens_that_a_chat_template_writes_are_matched(tokenizer_folder):
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer = load(Path(tokenizer_folder))
    end = tokenizer.end_of_text
    said = [{"role": "user", "content": "if"}, {"role": "assistant", "content": "nil"}] * 2
    row = Row("chats:1", {"messages": said})
    [found] = Encoder(dataclasses.replace(BUILT_IN["chat"], chat_template=template), tokenizer, 64).examples([row])
    one, two = (ids.tolist() for ids in tokenizer.encode(["if", "nil"]))
    assert found.ids.tolist() == [*one, end, *two, end, *one, end, *two]  # the last one follows every document
    # Where the template writes none, text that looks like one is text.
    odd = Row("chats:2", {"messages": [said[0], {"role": "assistant", "content": "<|endoftext|>"}]})
    [found] = Encoder(BUILT_IN["chat"], tokenizer, 64).examples([odd])
    assert end not in found.ids.tolist()


def test_the_row_length_that_suits_a_task(tokenizer_folder):
    rows = {"train": ragged(5, longest=3), "validation": [Row("x:1", {"question": "if " * 60, "answer": "nil"})]}
    sizes = [fitting_size(rows, BUILT_IN["qa"], tokenizer_folder, positions) for positions in (1024, 100)]
    assert sizes[0] in (128, 256)
    assert sizes[1] == 100
    assert fitting_size({"train": ragged(5, longest=3)}, BUILT_IN["qa"], tokenizer_folder, 1024) == 64


def test_a_peft_model_of_the_users_own_is_trained_the_same_way(tokenizer, tokenizer_folder, tmp_path, preset):
    """Loss and attention are put into the model inside: sums of rows that examples share, and no logits in training."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tiny_model(preset, tokenizer).save_pretrained(tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    target = {"gpt2-10m": "c_attn", "neox-10m": "query_key_value"}[preset]
    settings = LoraConfig(
        task_type="CAUSAL_LM", target_modules=[target], init_lora_weights=False, fan_in_fan_out=preset == "gpt2-10m"
    )
    model = get_peft_model(plain, settings)
    rows = ragged()
    packed = prepare_task({"train": rows}, BUILT_IN["qa"], tokenizer_folder, BLOCK).rows("train")
    metrics = forge_trainer(model, tokenizer, tmp_path, evaluate=packed).evaluate()
    nll, count = counted(model, BUILT_IN["qa"], rows, tokenizer)
    assert (metrics["eval_tokens"], metrics["eval_loss"]) == (count, pytest.approx(nll / count, rel=1e-6))
    batch = PackedCollator()(packed.__getitems__([0, 1, 2]))
    assert model.train()(**batch).logits is None
