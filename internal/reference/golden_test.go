package reference

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tarbert/internal/tensor"
)

// goldenModels are directories below testdata/golden.
var goldenModels = []string{
	"deepseek-v3", "deepseek-v3-fp8", "deepseek-v3-groups-yarn", "qwen3", "qwen3-yarn", "qwen3-moe",
	"qwen3-moe-published", "qwen3-published-bf16-sharded",
}

func goldenDir(name string) string { return filepath.Join("testdata", "golden", name) }

type goldenCase struct {
	Tokens []int `json:"tokens"`
	Greedy []int `json:"greedy"`
}

func readGolden(t testing.TB, name string) ([]goldenCase, [][]float32) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenDir(name), "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Cases []goldenCase `json:"cases"`
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	f, err := tensor.Open(filepath.Join(goldenDir(name), "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var logits [][]float32
	for i := range g.Cases {
		x, err := f.Float32("logits." + string(rune('0'+i)))
		if err != nil {
			t.Fatal(err)
		}
		logits = append(logits, x)
	}
	if len(g.Cases) == 0 {
		t.Fatalf("%s has no cases", name)
	}
	return g.Cases, logits
}

func loadGolden(t testing.TB, name string, o Options) *Model {
	t.Helper()
	m, err := Load(goldenDir(name), o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLogitsAgreeWithTransformers holds every architecture to 2e-4 of what
// transformers computes from the same files.
func TestLogitsAgreeWithTransformers(t *testing.T) {
	for _, name := range goldenModels {
		t.Run(name, func(t *testing.T) {
			m := loadGolden(t, name, Options{})
			cases, want := readGolden(t, name)
			worst := 0.0
			for i, c := range cases {
				got, err := m.Forward(context.Background(), []Input{{Seq: m.NewSequence(), Tokens: c.Tokens, All: true}})
				if err != nil {
					t.Fatal(err)
				}
				if len(want[i]) != len(c.Tokens)*m.Config().VocabSize {
					t.Fatalf("case %d: %d golden logits", i, len(want[i]))
				}
				for j, w := range want[i] {
					d := math.Abs(float64(got[0][j/m.Config().VocabSize][j%m.Config().VocabSize] - w))
					worst = max(worst, d)
					if !(d <= 2e-4) {
						t.Fatalf("case %d position %d token %d: logit differs by %v", i, j/m.Config().VocabSize, j%m.Config().VocabSize, d)
					}
				}
			}
			t.Logf("largest difference %.2g", worst)
		})
	}
}

// TestGreedyAgreesWithTransformers decodes all prompts together, token by
// token through the KV cache.
func TestGreedyAgreesWithTransformers(t *testing.T) {
	for _, name := range goldenModels {
		t.Run(name, func(t *testing.T) {
			m := loadGolden(t, name, Options{})
			cases, _ := readGolden(t, name)
			in := make([]Input, len(cases))
			for i, c := range cases {
				in[i] = Input{Seq: m.NewSequence(), Tokens: c.Tokens}
			}
			got := make([][]int, len(cases))
			for range cases[0].Greedy {
				logits, err := m.Forward(context.Background(), in)
				if err != nil {
					t.Fatal(err)
				}
				for i := range in {
					next := Sampler{}.Pick(logits[i][0], 0)
					got[i] = append(got[i], next)
					in[i].Tokens = []int{next}
				}
			}
			for i, c := range cases {
				if !slices.Equal(got[i], c.Greedy) {
					t.Errorf("case %d: greedy continuation %v, transformers has %v", i, got[i], c.Greedy)
				}
			}
		})
	}
}
