package reference_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"tarbert/internal/reference"
)

func logitsOf(t *testing.T, m *reference.Model, tokens []int) []float32 {
	t.Helper()
	out, err := m.Forward(context.Background(), []reference.Input{{Seq: m.NewSequence(), Tokens: tokens, All: true}})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(out[0]...)
}

// TestRoundedIsWhatAnEngineLoads: the copy in bf16 computes the bits of the
// saved model loaded in bf16.
func TestRoundedIsWhatAnEngineLoads(t *testing.T) {
	for _, name := range append(trainable, "new") {
		t.Run(name, func(t *testing.T) {
			m := gradientModel(t, name)
			dir := t.TempDir()
			if err := m.SaveModel(dir); err != nil {
				t.Fatal(err)
			}
			loaded, err := reference.Load(dir, reference.Options{Precision: reference.BF16, Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			rounded, err := m.Rounded(reference.BF16)
			if err != nil {
				t.Fatal(err)
			}
			tokens := []int{1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233}
			if !sameBits(logitsOf(t, rounded, tokens), logitsOf(t, loaded, tokens)) {
				t.Error("other bits than the saved model loaded in bf16")
			}
		})
	}
}

// TestRoundedW8A8IsWhatMsmodelslimWrites: quantising in memory gives the bits
// of the directory that msmodelslim made of the same weights.
func TestRoundedW8A8IsWhatMsmodelslimWrites(t *testing.T) {
	m, err := reference.LoadTrainable(filepath.Join("testdata", "ascendv1", "source"), 2)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := reference.Load(filepath.Join("testdata", "ascendv1", "w8a8"), reference.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	rounded, err := m.Rounded(reference.W8A8)
	if err != nil {
		t.Fatal(err)
	}
	if rounded.Precision() != reference.W8A8 || loaded.Precision() != reference.W8A8 {
		t.Errorf("precisions %q and %q", rounded.Precision(), loaded.Precision())
	}
	tokens := []int{1, 2, 3, 5, 8, 13, 21, 34, 55, 89}
	want := logitsOf(t, loaded, tokens)
	if !sameBits(logitsOf(t, rounded, tokens), want) {
		t.Error("other bits than msmodelslim's directory")
	}
	if sameBits(logitsOf(t, m.Inference(), tokens), want) {
		t.Error("quantising changed nothing")
	}
	// A copy: training goes on without it.
	m.Params()[0].Data[5*m.Config().HiddenSize] += 1
	if !sameBits(logitsOf(t, rounded, tokens), want) {
		t.Error("a change of the trained weights shows in the copy")
	}
	if _, err := m.Rounded("fp4"); err == nil {
		t.Error("fp4 was not refused")
	}
}
