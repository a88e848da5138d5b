"""minirlhf.engine.batches: what the model reads is what was written, and what counts is marked."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from minirlhf.engine.batches import (
    CHAT_TEMPLATE,
    Encoder,
    Passes,
    length_grouped_batches,
    packed_blocks,
)
from minirlhf.engine.records import DataError, Demonstration, Prompt, Ranking, read_records


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return Encoder(tokenizer, 128)


@pytest.fixture(scope="module")
def plain_tokenizer(tokenizer, micro_folder):
    """The same tokenizer without a chat template, without a pad token of its own."""
    plain = type(tokenizer).from_pretrained(micro_folder)
    plain.chat_template = None
    return plain


# Chat template ----------------------------------------------------------------------------------


def test_dialogue_reads_as_the_template_says(encoder, tokenizer):
    prompt = Prompt("Of what?", history=("What is Io?", "A moon."))
    assert tokenizer.decode(encoder.prompt(prompt)) == (
        "User: What is Io?\nAssistant: A moon.<|endoftext|>\nUser: Of what?\nAssistant:"
    )


def test_a_long_dialogue_loses_its_oldest_turns_first(encoder, tokenizer):
    history = [text for i in range(9) for text in (f"Question {i} of nine?", f"Answer {i}.")]
    whole = tokenizer.decode(encoder.prompt(Prompt("And now?", history=history[-4:])))
    room = 128 - len(encoder.prompt(Prompt("And now?", history=history[-4:])))
    cut = encoder.prompt(Prompt("And now?", history=history), room=room)
    assert tokenizer.decode(cut) == whole
    # One token less: a whole exchange goes, so that the user still speaks first.
    shorter = encoder.prompt(Prompt("And now?", history=history), room=room + 1)
    assert shorter == encoder.prompt(Prompt("And now?", history=history[-2:]))
    with pytest.raises(DataError, match=r"field 'prompt': has \d+ tokens; with 128"):
        encoder.prompt(Prompt("And now?", history=history), room=128)


def test_a_dialogue_is_learned_turn_by_turn_and_on_the_assistants_words_alone(encoder, tokenizer):
    talk = ["What is Io?", "A moon.", "Of what?", "Jupiter.", "Thanks!", "You are welcome."]
    learned = ""
    for i in range(0, len(talk), 2):
        turn = Demonstration(talk[i], talk[i + 1], history=tuple(talk[:i]))
        batch = encoder.sequences([encoder.pair(turn, turn.response)])
        learned += tokenizer.decode(batch.input_ids[batch.response_mask])
    assert learned == "".join(f" {said}<|endoftext|>" for said in talk[1::2])


def test_prompt_and_response_join_to_what_the_template_writes(encoder, tokenizer, demonstrations):
    for d in demonstrations:
        prompt, response = encoder.pair(d, d.response)
        assert tokenizer.decode(prompt) == f"User: {d.prompt}\nAssistant:"
        assert tokenizer.decode(response) == f" {d.response}<|endoftext|>"


def test_a_tokenizer_without_a_template_gets_ours(encoder, plain_tokenizer, demonstrations):
    other = Encoder(plain_tokenizer, 128)
    assert plain_tokenizer.chat_template is None
    for d in demonstrations:
        assert other.pair(d, d.response) == encoder.pair(d, d.response)


def test_a_template_of_another_style_is_followed(plain_tokenizer, micro_folder):
    """As SmolLM2's: a header per turn, and text after the end of sequence, which is not learned."""
    tokenizer = type(plain_tokenizer).from_pretrained(micro_folder)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|endoftext|>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    prompt, response = Encoder(tokenizer, 128).pair(Prompt("Why?"), "So.")
    assert tokenizer.decode(prompt) == "[user] Why?<|endoftext|>\n[assistant] "
    assert tokenizer.decode(response) == "So.<|endoftext|>"


def test_a_template_that_rewrites_the_prompt_is_refused(micro_folder, plain_tokenizer):
    tokenizer = type(plain_tokenizer).from_pretrained(micro_folder)
    tokenizer.chat_template = "{{ messages | length }}{{ messages[-1]['content'] }}"
    with pytest.raises(DataError, match="rewrites the prompt"):
        Encoder(tokenizer, 128).response("Why?", "So.")


@pytest.mark.parametrize("response", ["A moon.", "", "  two  spaces ", "Ünïcödé 月\nnext line"])
def test_responses_end_with_the_first_eos(encoder, tokenizer, response):
    ids = encoder.response("What is Io?", response)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    assert encoder.text(torch.tensor([ids]), mask) == [response.strip()]


def test_nothing_is_learned_after_an_eos_in_the_text(encoder, tokenizer):
    ids = encoder.response("What is Io?", f"A moon.{tokenizer.eos_token}And more.")
    assert tokenizer.decode(ids) == " A moon.<|endoftext|>"


def test_text_decodes_what_counts_only(encoder, tokenizer):
    ids = torch.tensor([tokenizer("One two three", add_special_tokens=False)["input_ids"]])
    mask = torch.zeros_like(ids, dtype=torch.bool)
    assert encoder.text(ids, mask) == [""]
    first = len(tokenizer("One two", add_special_tokens=False)["input_ids"])
    mask[:, :first] = True
    assert encoder.text(ids, mask) == ["One two"]


# Padding and masks ------------------------------------------------------------------------------


def test_prompts_are_padded_on_the_left(encoder, tokenizer):
    batch = encoder.prompts([[5, 6, 7], [8]])
    pad = tokenizer.pad_token_id
    assert batch.prompt_ids.tolist() == [[5, 6, 7], [pad, pad, 8]]
    assert batch.prompt_mask.tolist() == [[True, True, True], [False, False, True]]


def test_masks_mark_exactly_the_response(encoder, tokenizer):
    batch = encoder.sequences([([5, 6, 7], [8, 2]), ([5], [2])])
    pad = tokenizer.pad_token_id
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 2], [5, 2, pad, pad, pad]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.response_mask.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]
    assert batch.attention_mask.dtype == batch.response_mask.dtype == torch.bool


def test_masked_tokens_decode_to_the_response(encoder, tokenizer, demonstrations):
    batch = encoder.sequences([encoder.pair(d, d.response) for d in demonstrations])
    for d, ids, mask in zip(demonstrations, batch.input_ids, batch.response_mask, strict=True):
        assert tokenizer.decode(ids[mask]) == f" {d.response}<|endoftext|>"


# Rankings ---------------------------------------------------------------------------------------


def test_rankings_stand_in_one_batch_with_one_row_per_response(encoder, tokenizer, rankings):
    batch = encoder.rankings(rankings)
    assert len(batch.sequences.input_ids) == sum(len(r.responses) for r in rankings) == 14
    assert batch.ranks.tolist() == [
        [1, 2, 0, 0, 0],
        [1, 2, 2, 0, 0],
        [1, 1, 2, 3, 0],
        [2, 1, 5, 3, 3],
    ]
    for row, slot, ids, mask in zip(
        batch.row,
        batch.slot,
        batch.sequences.input_ids,
        batch.sequences.attention_mask,
        strict=True,
    ):
        ranking = rankings[row]
        text = f"User: {ranking.prompt}\nAssistant: {ranking.responses[slot]}<|endoftext|>"
        assert tokenizer.decode(ids[mask]) == text


def test_a_tree_holds_each_prompt_once_and_each_response_behind_it(encoder, tokenizer, rankings):
    tree = encoder.rankings(rankings).tree
    ends = iter(tree.last.tolist())
    for row, ranking in enumerate(rankings):
        ids, branch, positions = tree.input_ids[row], tree.branch[row], tree.positions[row]
        start = (branch == 0).sum().item()
        assert tokenizer.decode(ids[branch == 0]) == f"User: {ranking.prompt}\nAssistant:"
        assert positions[branch == 0].tolist() == list(range(start))
        for number, response in enumerate(ranking.responses, start=1):
            own = branch == number
            assert tokenizer.decode(ids[own]) == f" {response}<|endoftext|>"
            assert positions[own].tolist() == list(range(start, start + own.sum().item()))
            assert divmod(next(ends), len(ids)) == (row, own.nonzero().max().item())
    assert next(ends, None) is None


def test_a_tree_is_looked_at_as_each_response_alone_would_be(encoder, rankings):
    """By a slow loop: the prompt, and one's own response up to oneself."""
    tree = encoder.rankings(rankings[:2]).tree
    mask = tree.mask
    for row, branch in enumerate(tree.branch.tolist()):
        for i, asks in enumerate(branch):
            for j, asked in enumerate(branch):
                assert mask[row, 0, i, j].item() == (j <= i and asked in (0, asks))


def test_by_prompt_puts_scores_into_their_slots(encoder, rankings):
    batch = encoder.rankings(rankings)
    scores = torch.arange(1.0, 15.0, requires_grad=True)
    table = batch.by_prompt(scores)
    assert table.tolist() == [
        [1, 2, 0, 0, 0],
        [3, 4, 5, 0, 0],
        [6, 7, 8, 9, 0],
        [10, 11, 12, 13, 14],
    ]
    (table * torch.arange(20.0).view(4, 5)).sum().backward()
    assert scores.grad.tolist() == [0, 1, 5, 6, 7, 10, 11, 12, 13, 15, 16, 17, 18, 19]


# Limits -----------------------------------------------------------------------------------------


def test_what_is_too_long_is_said_once(encoder, capfd, caplog):
    """Not by the tokenizer as well, in words of its own."""
    for encode in (encoder.plain, lambda text: encoder.prompt(Prompt(text))):
        with pytest.raises(DataError, match="over the model's context of 128"):
            encode("Tell me a story. " * 40)
    assert capfd.readouterr().err == ""
    assert not caplog.records


def test_bare_text_keeps_the_bos_of_a_tokenizer_that_adds_one(encoder, tokenizer, micro_folder):
    """And never an EOS, after which a base would begin something new."""
    plain = tokenizer("The moon", add_special_tokens=False)["input_ids"]
    assert encoder.plain("The moon") == plain
    eos = tokenizer.eos_token
    other = type(tokenizer).from_pretrained(micro_folder)
    other._tokenizer.post_processor = TemplateProcessing(
        single=f"<|pad|> $A {eos}",
        special_tokens=[("<|pad|>", tokenizer.pad_token_id), (eos, tokenizer.eos_token_id)],
    )
    assert Encoder(other, 128).plain("The moon") == [tokenizer.pad_token_id, *plain]


def test_a_prompt_that_leaves_no_room_names_its_line(encoder, tmp_path):
    file = tmp_path / "prompts.jsonl"
    long = "Tell me a story. " * 40
    file.write_text(f'{{"prompt": "Hi"}}\n{{"prompt": "{long}"}}\n', encoding="utf-8")
    short, record = read_records(file, Prompt)
    with pytest.raises(DataError) as raised:
        encoder.prompt(record, room=10)
    assert str(raised.value).startswith(f"{file}:2: field 'prompt': has ")
    assert "context of 128" in str(raised.value)
    needed = len(encoder.prompt(short))
    assert encoder.prompt(short, room=128 - needed)
    with pytest.raises(DataError):
        encoder.prompt(short, room=129 - needed)


@pytest.mark.parametrize(
    "record",
    [
        Demonstration("Hi", "long " * 100, where="demos.jsonl:7"),
        Ranking("Hi", ("short", "long " * 100), (1, 2), where="demos.jsonl:7"),
    ],
)
def test_a_response_that_is_too_long_names_its_line(encoder, record):
    long = record.response if isinstance(record, Demonstration) else record.responses[1]
    with pytest.raises(DataError, match=r"^demos\.jsonl:7: field"):
        encoder.pair(record, long)


# Batching ---------------------------------------------------------------------------------------


def grouped(lengths, size, seed=0):
    return list(length_grouped_batches(lengths, size, torch.Generator().manual_seed(seed)))


def padding(batches, lengths):
    return sum(max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in batches)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 300])
def test_every_example_comes_once_an_epoch(count):
    lengths = torch.randint(1, 100, (count,), generator=torch.Generator().manual_seed(3)).tolist()
    batches = grouped(lengths, 8)
    assert sorted(i for b in batches for i in b) == list(range(count))
    assert len(batches) == -(-count // 8)
    assert all(len(b) <= 8 for b in batches)


def test_grouping_by_length_wastes_far_less():
    lengths = torch.randint(1, 100, (300,), generator=torch.Generator().manual_seed(3)).tolist()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [order[i : i + 8] for i in range(0, 300, 8)]
    assert padding(grouped(lengths, 8), lengths) < 0.15 * padding(shuffled, lengths)


def test_batches_differ_from_epoch_to_epoch_and_repeat_with_the_seed():
    lengths = list(range(100))
    generator = torch.Generator().manual_seed(0)
    epochs = [list(length_grouped_batches(lengths, 8, generator)) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs[0] == grouped(lengths, 8)
    longest = [max(lengths[i] for i in b) for b in epochs[0]]
    assert longest != sorted(longest)  # easy, short examples do not all come first


def shuffled(own):
    return torch.randperm(5, generator=own).tolist()


def test_passes_are_those_of_one_generator():
    generator = torch.Generator().manual_seed(7)
    expected = [i for _ in range(4) for i in shuffled(generator)]
    passes = Passes(shuffled, seed=7)
    assert [next(passes) for _ in range(20)] == expected
    assert expected[:5] != expected[5:10]


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 6, 12])
def test_passes_go_on_where_their_state_was_taken(taken):
    passes = Passes(shuffled, seed=7)
    for _ in range(taken):
        next(passes)
    state = passes.state()
    rest = [next(passes) for _ in range(11)]
    other = Passes(shuffled, seed=0)
    next(other)
    for _ in range(2):  # a state can be used twice
        other.restore(state)
        assert [next(other) for _ in range(11)] == rest


def test_blocks_are_full_and_documents_end_with_eos(tokenizer):
    texts = ["The moon is round.", "Mars is red.", "Io."]
    blocks = packed_blocks(texts, tokenizer, 8)
    stream = "".join(text + "<|endoftext|>" for text in texts)
    whole = tokenizer(stream, add_special_tokens=False)["input_ids"]
    assert blocks.dtype == torch.int64
    assert blocks.shape == (len(whole) // 8, 8)
    assert blocks.flatten().tolist() == whole[: blocks.numel()]


def test_too_little_text_for_a_block_is_said(tokenizer):
    with pytest.raises(DataError, match="fewer than one block of 64"):
        packed_blocks(["Io."], tokenizer, 64)


def test_the_shipped_template_is_the_packages(tokenizer):
    assert tokenizer.chat_template == CHAT_TEMPLATE
