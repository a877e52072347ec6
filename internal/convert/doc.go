// Package convert turns a checkpoint into the weights that a serving chip loads,
// and proves that nothing was lost on the way.
//
// # Sources
//
// Hugging Face directories of safetensors: F32, F16 and BF16; DeepSeek-V3's FP8 in
// blocks, with float32, bfloat16 or E8M0 scales; DeepSeek-V4's FP4 experts.
// source.go pairs weights with their scales and refuses what could be read in two
// ways; values.go decodes.
//
// # Formats
//
// formats.go lists them, one entry each: "bf16"; "w8a8-ascend", msmodelslim's
// AscendV1 W8A8_DYNAMIC as vllm-ascend loads it; "w8a8-compressed",
// compressed-tensors int8 as llm-compressor writes it; "fp8-block"; "fp8", the
// expansion of FP4 without loss. An entry plans the fate of every weight, from the
// lists in architectures.json, and places the outputs; the engine does the rest.
// To add a format, add an entry, and a row in the tests that loop over them.
//
// # The engine
//
// Every offset is known before data moves (plan.go, place.go; Plan prints it).
// Bands of rows stream through a bounded pool of buffers, several at once, through
// the arithmetic of encode.go and the package kernel, and every element's error is
// held against its bound (design.md derives the bounds). A journal (journal.go)
// lists the bands done; after a crash the same call reads back what it lists and
// goes on. The output appears under its name complete or not at all.
//
// # The proof
//
// Check proves a conversion after the fact, ours or anybody's, with decoders of
// its own (decode.go, view.go) and names the first rule that is broken. Run is the
// release's stage: convert to each format, check each.
//
// No converted model has been loaded on Ascend hardware here: the layout is held
// against what msmodelslim 26.1.0 writes, and the rules against vllm-ascend's source.
package convert
