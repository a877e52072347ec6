// Package ascend finds and reads Huawei Ascend NPUs through npu-smi.
//
// `npu-smi info` prints tables in several layouts. The layout is known by its
// two header rows and by nothing else; an unknown header is refused with the
// raw text. Cells are split at '|', never at fixed columns: the widths differ
// between versions, and a five-digit figure loses its space. The name is not
// the generation: 910B3 is an A2, an A3 calls itself Ascend910 and has Phy-IDs.
// On the 950 only `npu-smi info -m` is known; its chips are listed with unknown
// health.
//
// "dcmi … ret is -8005" and "-8020" say that devices are not mounted into this
// container or are held by another one, which is not a broken chip.
//
// Honesty tier: replayed. The tests read layout-faithful output with values of
// our own (testdata/PROVENANCE.md). No Ascend hardware has been at hand.
package ascend
