package convert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

const (
	slim   = "testdata/msmodelslim-26.1.0/qwen3/full-tiny"
	source = "testdata/msmodelslim-26.1.0/qwen3/source"
)

func readJSON(t *testing.T, path string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(read(t, path), &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustConvert(t *testing.T, src, format string, o convert.Options) (string, *convert.Report) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "out")
	rep, err := convert.Convert(context.Background(), src, dst, format, o)
	if err != nil {
		t.Fatal(err)
	}
	return dst, rep
}

// TestEqualsMsmodelslim: with its names asked for, our file is msmodelslim's to the byte.
func TestEqualsMsmodelslim(t *testing.T) {
	dst, _ := mustConvert(t, source, convert.W8A8Ascend, convert.Options{Naming: convert.MSModelSlim})
	const weights = "quant_model_weights-00001-of-00001.safetensors"
	if !bytes.Equal(read(t, filepath.Join(dst, weights)), read(t, filepath.Join(slim, weights))) {
		t.Error("the weights' file differs")
	}
	for _, name := range []string{"quant_model_description.json", "quant_model_weights.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} {
		if !bytes.Equal(read(t, filepath.Join(dst, name)), read(t, filepath.Join(slim, name))) {
			t.Errorf("%s differs", name)
		}
	}
}

// TestEqualsMsmodelslimUnderOurNames: the same tensors under the names that
// vLLM's loader consults.
func TestEqualsMsmodelslimUnderOurNames(t *testing.T) {
	dst, rep := mustConvert(t, source, convert.W8A8Ascend, convert.Options{})
	if got := read(t, filepath.Join(dst, "model.safetensors.index.json")); !bytes.Contains(got, []byte("model-00001-of-00001.safetensors")) {
		t.Errorf("index %.200s", got)
	}
	compareDirs(t, slim, dst)
	if rep.Totals.Quantised != 21 || rep.Totals.Outputs != 78 || rep.Totals.Dropped != 0 {
		t.Errorf("totals %+v: want 21 quantised, 78 outputs", rep.Totals)
	}
}

// compareDirs compares all tensors to the bit.
func compareDirs(t *testing.T, want, got string) {
	t.Helper()
	a, err := tensor.OpenDir(want)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := tensor.OpenDir(got)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(a.Infos()) != len(b.Infos()) {
		t.Errorf("%d tensors, want %d", len(b.Infos()), len(a.Infos()))
	}
	for _, info := range a.Infos() {
		x, err := a.Bytes(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Bytes(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		other, _ := b.Info(info.Name)
		if !bytes.Equal(x, y) || other.DType != info.DType || cmp.Diff(other.Shape, info.Shape) != "" {
			t.Errorf("%s differs", info.Name)
		}
	}
}

func TestChecksMsmodelslimsOwnConversion(t *testing.T) {
	rep, err := convert.Check(context.Background(), source, slim)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Passed() || rep.Quantised != 21 || rep.Recorded || rep.Format != convert.W8A8Ascend {
		t.Errorf("%+v", rep)
	}
	if rep.WorstSQNR < 30 || rep.WorstSQNR > 50 {
		t.Errorf("worst SQNR %v dB is not int8's", rep.WorstSQNR)
	}
}

// TestExactRoundingIsBetter: float32 scales and codes lose less than bfloat16's.
func TestExactRoundingIsBetter(t *testing.T) {
	_, compatible := mustConvert(t, source, convert.W8A8Ascend, convert.Options{})
	dst, exact := mustConvert(t, source, convert.W8A8Ascend, convert.Options{Rounding: convert.Exact})
	for i, c := range compatible.Tensors {
		if e := exact.Tensors[i]; c.Action == convert.Quantised && e.SQNR <= c.SQNR {
			t.Errorf("%s: exact %v dB, compatible %v dB", c.Name, e.SQNR, c.SQNR)
		}
	}
	rep, err := convert.Check(context.Background(), source, dst)
	if err != nil || !rep.Passed() {
		t.Errorf("check: %v, %v", rep, err)
	}
}

func TestBF16OfBF16IsACopy(t *testing.T) {
	dst, rep := mustConvert(t, source, convert.BF16, convert.Options{})
	if !bytes.Equal(read(t, filepath.Join(dst, "model.safetensors")), read(t, filepath.Join(source, "model.safetensors"))) {
		t.Error("the weights' file differs")
	}
	if rep.Totals.Copied != rep.Totals.Tensors || rep.Totals.WorstTensor != "" {
		t.Errorf("totals %+v", rep.Totals)
	}
}
