package oracle

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openGolden(t *testing.T, name string) *Model {
	t.Helper()
	m, err := Open(goldenDir(name))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func examples() []Example {
	return []Example{
		{Tokens: []int{7, 201, 33, 90, 14, 55}, Mask: []bool{false, false, true, true, false, true}},
		{Tokens: []int{3, 250, 8}, Mask: []bool{true, false, true}}, // the first token is never a target
	}
}

func TestLossIsTheMeanOverTargets(t *testing.T) {
	m := openGolden(t, "deepseek-v3")
	batch := examples()
	want, n := 0.0, 0
	for i, targets := range [][]int{{2, 3, 5}, {2}} {
		logits, err := m.Logits(batch[i].Tokens)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range targets {
			sum := 0.0
			for _, l := range logits[at-1] {
				sum += math.Exp(l)
			}
			want -= math.Log(math.Exp(logits[at-1][batch[i].Tokens[at]]) / sum)
			n++
		}
	}
	got, err := m.Loss(batch)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(got-want/float64(n)) > 1e-9 {
		t.Errorf("loss %.12f, want %.12f", got, want/float64(n))
	}
}

// TestSlopeOfKnownShape: logits are proportional both to the head and to the
// last norm, so the slope along the one's own weights is that along the
// other's; and slopes add up.
func TestSlopeOfKnownShape(t *testing.T) {
	for _, name := range []string{"deepseek-v3-groups-yarn", "qwen3-moe"} {
		m := openGolden(t, name)
		slope := func(direction map[string][]float64, step float64) float64 {
			t.Helper()
			s, err := m.Slope(examples(), direction, step)
			if err != nil {
				t.Fatal(err)
			}
			return s.Value
		}
		head := slope(map[string][]float64{"lm_head.weight": m.w["lm_head.weight"].Data}, 1e-4)
		norm := slope(map[string][]float64{"model.norm.weight": m.w["model.norm.weight"].Data}, 1e-4)
		if math.Abs(head-norm) > 1e-7*math.Abs(head) || head == 0 {
			t.Errorf("%s: slope along the head %.10g, along the norm %.10g", name, head, norm)
		}
		r := rand.New(rand.NewPCG(1, 2))
		a, b, both := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for _, n := range m.Names() {
			for range m.w[n].Data {
				x, y := 0.02*r.NormFloat64(), 0.02*r.NormFloat64()
				a[n], b[n], both[n] = append(a[n], x), append(b[n], y), append(both[n], x+y)
			}
		}
		sa, sb, sum := slope(a, 1e-5), slope(b, 1e-5), slope(both, 1e-5)
		if math.Abs(sa+sb-sum) > 1e-6*(math.Abs(sa)+math.Abs(sb)) {
			t.Errorf("%s: slopes %.10g + %.10g ≠ %.10g", name, sa, sb, sum)
		}
	}
}

// TestSlopeAcrossAJumpIsRefused: where two experts tie, any step to either
// side changes the routing.
func TestSlopeAcrossAJumpIsRefused(t *testing.T) {
	m := openGolden(t, "qwen3-moe")
	const gate = "model.layers.0.mlp.gate.weight"
	tied := Tensor{Shape: m.w[gate].Shape, Data: make([]float64, len(m.w[gate].Data))} // all experts alike
	copyOf := *m
	copyOf.w = maps.Clone(m.w)
	copyOf.w[gate] = tied
	d := make([]float64, len(tied.Data))
	for i := range m.c.Hidden {
		d[i] = 1
	}
	_, err := copyOf.Slope(examples(), map[string][]float64{gate: d}, 1e-3)
	if !errors.Is(err, ErrKink) {
		t.Errorf("got %v, want ErrKink", err)
	}
}

// TestMargin: the margin of a position is no larger than that of any before
// it, and zero where experts tie.
func TestMargin(t *testing.T) {
	m := openGolden(t, "deepseek-v3-groups-yarn")
	p, err := m.Forward(examples()[0].Tokens)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range p.Margin {
		if !(g > 0 && g < 1) || i > 0 && g > p.Margin[i-1] {
			t.Errorf("margins %v", p.Margin)
		}
	}
	const gate = "model.layers.1.mlp.gate"
	tied := *m
	tied.w = maps.Clone(m.w)
	tied.w[gate+".weight"] = Tensor{Shape: m.w[gate+".weight"].Shape, Data: make([]float64, len(m.w[gate+".weight"].Data))}
	tied.w[gate+".e_score_correction_bias"] = Tensor{Shape: m.w[gate+".e_score_correction_bias"].Shape, Data: make([]float64, m.c.Routed)}
	if p, err = tied.Forward([]int{1, 2}); err != nil || p.Margin[0] != 0 {
		t.Errorf("tied experts: margins %v, error %v", p.Margin, err)
	}
	if p, err = openGolden(t, "qwen3").Forward([]int{1}); err != nil || !math.IsInf(p.Margin[0], 1) {
		t.Errorf("without routing: margins %v, error %v", p.Margin, err)
	}
}

func TestErrorsNameWhatIsWrong(t *testing.T) {
	dir := goldenDir("deepseek-v3")
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	good := openGolden(t, "deepseek-v3").w
	without := maps.Clone(good)
	delete(without, "model.layers.1.mlp.experts.3.up_proj.weight")
	bent := maps.Clone(good)
	bent["model.norm.weight"] = Tensor{Shape: []int64{8, 8}, Data: good["model.norm.weight"].Data}
	edit := func(key string, value any) []byte {
		var c map[string]any
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		c[key] = value
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		name    string
		config  []byte
		tensors map[string]Tensor
		want    string
	}{
		{"missing tensor", b, without, "experts.3.up_proj.weight is missing"},
		{"misshapen tensor", b, bent, "model.norm.weight has shape [8 8]"},
		{"unknown architecture", edit("model_type", "llama"), good, `"llama"`},
		{"zero size", edit("kv_lora_rank", 0), good, "kv_lora_rank is 0"},
		{"too many experts per token", edit("num_experts_per_tok", 9), good, "num_experts_per_tok 9"},
		{"groups that do not divide", edit("n_group", 3), good, "n_group 3"},
		{"unknown rope", edit("rope_scaling", map[string]any{"type": "linear"}), good, `"linear"`},
		{"other activation", edit("hidden_act", "gelu"), good, `"gelu"`},
		{"not JSON", []byte("{"), good, "parse config.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.config, c.tensors)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	m := openGolden(t, "deepseek-v3")
	if _, err := m.Logits([]int{1, 320}); err == nil || !strings.Contains(err.Error(), "token 320 at position 1") {
		t.Errorf("token outside the vocabulary: got %v", err)
	}
	if _, err := m.Loss([]Example{{Tokens: []int{1, 2}, Mask: []bool{true, false}}}); err == nil {
		t.Error("a batch without targets has a loss")
	}
	if _, err := m.Slope(examples(), map[string][]float64{"model.norm.weight": {1}}, 1e-4); err == nil {
		t.Error("a direction of the wrong size has a slope")
	}
}

func FuzzConfig(f *testing.F) {
	for _, name := range []string{"deepseek-v3-groups-yarn", "qwen3-moe-published", "qwen3-yarn"} {
		b, err := os.ReadFile(filepath.Join(goldenDir(name), "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := readConfig(b)
		if err != nil {
			return
		}
		if inv, _ := c.frequencies(); len(inv) != c.rotary()/2 {
			t.Errorf("%d frequencies for %d rotary dimensions", len(inv), c.rotary())
		}
	})
}
