// Package tokenizer turns text into the token ids a model was trained on, and
// back, from the files that a Hugging Face repository carries.
//
// It reads tokenizer.json of byte-level BPE models (the Qwen and DeepSeek
// families, GPT-2's descendants, and pure byte vocabularies with no merges),
// tokenizer_config.json, generation_config.json and chat_template.jinja. What
// it does not implement is an error that names the JSON path: a tokenizer that
// silently differs would make every later comparison of two deployments
// meaningless.
//
// The stages are the ones of the Rust library: added tokens are cut out of the
// text, the rest is normalized, split by the pre-tokenizers, mapped byte by
// byte to printable characters and merged by rank. Encode is exact for bytes:
// text that is not valid UTF-8 keeps its bytes where the vocabulary has all
// 256 of them.
//
// Regular expressions run in dlclark/regexp2 (look-ahead, Unicode classes);
// the published Qwen and DeepSeek patterns have hand-written scanners that a
// property test holds equal to it. Chat templates run in package
// jinja, which writes values as Python does.
package tokenizer
