package nvidia

import (
	"slices"
	"strconv"
	"strings"

	"tarbert/internal/device"
)

var _ device.Classifier = (*Driver)(nil)

// xids by remedy, from NVIDIA's catalogue of 2025-10-29. Those with a workflow
// of their own (45, 48, 74, 144 to 150) and 54 (power cable) say too little
// alone and stay unknown; 154 carries its action in its text.
var xids = []struct {
	remedy device.Remedy
	codes  []int
}{
	{device.RemedyNone, []int{37, 38, 43, 44, 63, 66, 67, 92, 93, 121, 137, 141, 157, 160, 161}},
	{device.RemedyProcess, []int{8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 94}},
	{device.RemedyReset, []int{46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}},
	{device.RemedyNode, []int{79}},
}

// Remedy implements device.Classifier for Xid numbers ("79", "Xid 79").
func (*Driver) Remedy(code string) device.Remedy {
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(code, "Xid"), "xid")))
	if err != nil {
		return device.RemedyUnknown
	}
	for _, x := range xids {
		if slices.Contains(x.codes, n) {
			return x.remedy
		}
	}
	return device.RemedyUnknown
}
