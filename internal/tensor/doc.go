// Package tensor reads and writes tensors on disk: safetensors files, sharded
// directories with their index, and the element types in them. It knows names,
// types, shapes and bytes; it knows no models.
//
// # Reading
//
// Open and OpenDir trust nothing: the header's length is capped and checked
// against the file before a byte of it is read, names are unique, byte ranges
// are contiguous from zero without holes or overlaps, every range is exactly
// its type times its shape, and the last one ends where the file does. An index
// must say exactly what the shards' headers say. The error of a file that breaks
// a rule is a *FormatError with file, tensor and offset.
//
// # Writing
//
// Plan fixes every offset before data moves, in the order of the reference
// library (alignment of the type descending, then name), so that a file written
// here is byte for byte the file that library would have written. A Writer takes
// data in any order and appears under its name only when complete and on disk.
//
// The format is that of github.com/huggingface/safetensors (README, "Format";
// safetensors/src/tensor.rs). Byte order is little-endian, tensors are row-major.
package tensor
