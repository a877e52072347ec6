"""Tokenizers trained on the spot, and random texts and conversations for them.

The pre-tokenizers are the two families' published ones: Qwen's (NFC and one
pattern) and DeepSeek's (three patterns in sequence).
"""

import pydoc_data.topics
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPLITS = {
    "qwen": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "deepseek": [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    ],
}
SPECIAL = {
    "qwen": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "deepseek": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<|im_start|>", "<|im_end|>"],
}
ADDED = ["<think>", "</think>"]  # ordinary added tokens


def train(family, vocab, random):
    """A byte-level BPE of about vocab tokens, with special and added tokens at the end."""
    tok = Tokenizer(models.BPE())
    if family == "qwen":
        tok.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in SPLITS[family]]
    tok.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab - len(SPECIAL[family]) - len(ADDED), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    topics = random.sample(sorted(pydoc_data.topics.topics.values()), 40)
    tok.train_from_iterator([*topics, *(text(random) for _ in range(200))], trainer)
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL[family]])
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in ADDED])
    return tok


def save(tok, family, directory, template=None):
    """Writes the tokenizer as transformers does; gives transformers' own object."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=SPECIAL[family][1], clean_up_tokenization_spaces=False)
    if template:
        fast.chat_template = template
    fast.save_pretrained(directory)
    return fast


def assigned(*ranges):
    """The assigned characters of some ranges, without surrogates."""
    return [chr(c) for a, b in ranges for c in range(a, b) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    " ", " \t", "\n", "\r\n", " \n\t\r\x0b\x0c", "\x00\x01\x1f\x7f\x85",
    assigned((0xA0, 0x250)), assigned((0x250, 0x370)), assigned((0x300, 0x370)), assigned((0x370, 0x400)), assigned((0x400, 0x530)),
    assigned((0x590, 0x700)), assigned((0x900, 0xA00)), assigned((0xE00, 0xF00)), assigned((0x1100, 0x1200)), assigned((0x1E00, 0x2000)),
    assigned((0x2000, 0x2070)), assigned((0x2070, 0x2C00)), assigned((0x3000, 0x3130)), assigned((0x4E00, 0x4F00), (0x9F00, 0xA000)),
    assigned((0xAC00, 0xAD00)), assigned((0xF900, 0x10000)), assigned((0x10000, 0x10400)), assigned((0x1D400, 0x1D800)), assigned((0x1F000, 0x1FAF0)),
    assigned((0x20000, 0x20100), (0x2F800, 0x2FA20)), assigned((0, 0x110000)),
]
PHRASES = ["don't", "Z" + "\u0301\u0323\u0308" * 14, "I'LL", "we've", "'ſ", "it'S ", "'Re", "’s", "x+=1;\n", "    return", "12345678", "3.14e-10", "½Ⅷ٣", "e\u0301", "A\u030a\u0327", "ﬁ", "한국어", "각",
           "你好，世界", "こんにちは", "👩‍👩‍👧‍👦", "🏳️‍🌈", "\u200b\u200d\ufeff", "<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|im_", "|>", "<｜end▁of▁sentence｜>",
           "<|endoftext|>", "naïve", "ǅ", "İstanbul", "\u2028", "\u3000\u3000", "ไทย", "हिन्दी", "עִבְרִית", "العربية"]


def text(random):
    """A random text: runs of one alphabet, phrases, and cut-up prose."""
    parts = []
    for _ in range(random.randint(0, 12)):
        kind = random.random()
        if kind < 0.6:
            alphabet = random.choice(ALPHABETS)
            parts.append("".join(random.choice(alphabet) for _ in range(random.choice((1, 1, 2, 3, 5, 9)))))
        elif kind < 0.85:
            parts.append(random.choice(PHRASES))
        else:
            prose = random.choice(list(pydoc_data.topics.topics.values()))
            at = random.randrange(len(prose))
            parts.append(prose[at:at + random.randint(1, 60)])
        if random.random() < 0.3:
            parts.append(" ")
    return "".join(parts)


def conversation(random):
    """A random conversation and the template's options."""

    def say():
        return text(random)

    messages = [{"role": "system", "content": say()}] if random.random() < 0.5 else []
    options = {}
    tools = random.random() < 0.4
    for _ in range(random.randint(1, 3)):
        messages.append({"role": "user", "content": say()})
        if random.random() < 0.7:
            messages += answer(random, tools, say)
    if messages[-1]["role"] == "user" and random.random() < 0.8:
        options["add_generation_prompt"] = True
    if random.random() < 0.4:
        options["enable_thinking"] = random.random() < 0.5
    if tools:
        options["tools"] = [{"type": "function", "function": {"name": "add", "description": say(), "parameters": {
            "type": "object", "properties": {"a": {"type": "number"}, "text": {"type": "string", "enum": ["x", say()]}}, "required": ["a"]}}}]
    return messages, options


NUMBERS = (1, 2.5, 2.0, 1234567.5, -3e-7, 1e16, 10**17, 10**20, True)


def answer(random, tools, say):
    """What an assistant says: an answer, perhaps with thoughts, or a tool's call and its result."""
    if tools and random.random() < 0.5:
        arguments = {"a": random.choice((*NUMBERS, None)), "text": say(), "list": [1, [], {}]}
        return [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": arguments}}]},
                {"role": "tool", "content": say()}, {"role": "assistant", "content": say()}]
    kind = random.random()
    if kind < 0.3:
        return [{"role": "assistant", "content": f"<think>\n{say()}\n</think>\n\n{say()}"}]
    if kind < 0.5:
        return [{"role": "assistant", "content": say(), "reasoning_content": say()}]
    return [{"role": "assistant", "content": say()}]
