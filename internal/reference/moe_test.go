package reference

import (
	"slices"
	"testing"
)

// TestChoiceOfExperts covers what random weights rarely meet: ties, biases
// that overrule scores, and groups.
func TestChoiceOfExperts(t *testing.T) {
	for _, c := range []struct {
		name         string
		groups, keep int
		scores, bias []float32
		want         []int32
	}{
		{"softmax: the two largest, ascending", 1, 1, []float32{0.1, 0.2, 0.3, 0.4}, nil, []int32{2, 3}},
		{"of equals the lowest", 1, 1, []float32{0.25, 0.25, 0.25, 0.25}, nil, []int32{0, 1}},
		{"bias decides", 1, 1, []float32{0.9, 0.1, 0.2, 0.8}, []float32{-1, 0.9, 0.9, 0}, []int32{1, 2}},
		{"best group by its two best", 2, 1, []float32{0.9, 0.1, 0.6, 0.5}, make([]float32, 4), []int32{2, 3}},
		{"of equal groups the first", 2, 1, []float32{0.5, 0.5, 0.5, 0.5}, make([]float32, 4), []int32{0, 1}},
		{"bias moves the group", 2, 1, []float32{0.9, 0.1, 0.6, 0.5}, []float32{0, 0.5, 0, 0}, []int32{0, 1}},
		{"two groups of three", 3, 2, []float32{0.1, 0.1, 0.9, 0.2, 0.8, 0.2}, make([]float32, 6), []int32{2, 4}},
		{"an expert of a rejected group is never chosen", 2, 1, []float32{0.9, 0.1, 0.2, 0.1}, []float32{0, -0.5, 0, 0}, []int32{0, 1}},
	} {
		config := &Config{ModelType: DeepseekV3, NumExperts: len(c.scores), NumExpertsPerTok: 2, NumGroup: c.groups, TopKGroup: c.keep}
		ids := make([]int32, 2)
		config.choose(ids, c.scores, c.bias, &scratch{})
		if !slices.Equal(ids, c.want) {
			t.Errorf("%s: %v, want %v", c.name, ids, c.want)
		}
	}
}

func TestGroupingKeepsRowsInOrder(t *testing.T) {
	a := &moeActs{ids: []int32{0, 2, 1, 2, 0, 2}}
	fit(&a.start, 4)
	fit(&a.pair, 6)
	fit(&a.slot, 6)
	a.group(3)
	if want := []int{0, 2, 3, 6}; !slices.Equal(a.start, want) {
		t.Errorf("starts %v, want %v", a.start, want)
	}
	if want := []int32{0, 4, 2, 1, 3, 5}; !slices.Equal(a.pair, want) {
		t.Errorf("slots serve %v, want %v", a.pair, want)
	}
	for pair, slot := range a.slot {
		if a.pair[slot] != int32(pair) {
			t.Errorf("choice %d is at slot %d, which serves %d", pair, slot, a.pair[slot])
		}
	}
}
