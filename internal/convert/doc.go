// Package convert turns a float checkpoint into the weights that a serving chip
// loads, and proves that nothing was lost on the way.
//
// Convert decides the fate of every source tensor before data moves (plan.go,
// from the lists in architectures.json), streams rows through the arithmetic of
// the named dialect (quantise.go), and holds every element's error against its
// bound (design.md derives the bounds). A tensor without a rule, an element
// outside its bound or not finite, or a group of layers that an engine fuses but
// that would differ in type ends the conversion. The output appears under its
// name complete or not at all.
//
// Check proves a conversion after the fact, ours or anybody's, with decoders of
// its own (decode.go) and names the first rule that is broken. Run is the
// release's stage: convert to each format, check each.
//
// Formats: "bf16", Hugging Face safetensors in bfloat16; "w8a8-ascend",
// msmodelslim's AscendV1 W8A8_DYNAMIC as vllm-ascend loads it. No converted model
// has been loaded on Ascend hardware here: the layout is held against what
// msmodelslim 26.1.0 writes, and the rules against vllm-ascend's source.
package convert
