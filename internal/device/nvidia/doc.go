// Package nvidia finds and reads NVIDIA GPUs through nvidia-smi's CSV queries.
//
// Columns are found by their header, never by position; units in headers and
// values are checked. A value that the tool could not read ([N/A],
// [Not Supported]) is absent; [GPU is lost] makes the device unhealthy;
// [Unknown Error] makes it unknown. A tool that hangs is an error, not a
// failed device.
//
// Honesty tier: replayed. The tests read layout-faithful output with values of
// our own (testdata/PROVENANCE.md). Nothing here has been run on a GPU by these
// tests.
package nvidia
