package oracle

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"tarbert/internal/tensor"
)

// goldenDir is a model that transformers wrote; package reference keeps them
// (see PROVENANCE.md there).
func goldenDir(name string) string { return filepath.Join("..", "testdata", "golden", name) }

type goldenCase struct {
	Tokens []int `json:"tokens"`
	Greedy []int `json:"greedy"`
}

func readCases(t *testing.T, dir string) []goldenCase {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Cases []goldenCase `json:"cases"`
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g.Cases
}

// TestLogitsAgreeWithTransformers: 2e-4 is 6 to 20 times the room that
// transformers' own float32 rounding takes.
func TestLogitsAgreeWithTransformers(t *testing.T) {
	const tolerance = 2e-4
	for _, name := range []string{"deepseek-v3", "deepseek-v3-groups-yarn", "qwen3", "qwen3-yarn",
		"qwen3-published-bf16-sharded", "qwen3-moe", "qwen3-moe-published"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := goldenDir(name)
			m, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			want, err := tensor.Open(filepath.Join(dir, "golden.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			worst := 0.0
			for i, c := range readCases(t, dir) {
				got, err := m.Logits(c.Tokens)
				if err != nil {
					t.Fatal(err)
				}
				expected, err := want.Float32(fmt.Sprintf("logits.%d", i))
				if err != nil {
					t.Fatal(err)
				}
				if len(expected) != len(got)*m.c.Vocab {
					t.Fatalf("case %d: golden file has %d logits, want %d", i, len(expected), len(got)*m.c.Vocab)
				}
				for j, v := range expected {
					worst = max(worst, math.Abs(float64(v)-got[j/m.c.Vocab][j%m.c.Vocab]))
				}
			}
			t.Logf("largest difference %.2g", worst)
			if !(worst <= tolerance) {
				t.Errorf("logits differ by %g from transformers', more than %g", worst, tolerance)
			}
		})
	}
}
