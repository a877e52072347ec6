package plan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

const plans = "../../examples/plans"

func project(t *testing.T, name string) *Project {
	t.Helper()
	p, err := ReadProject(filepath.Join(plans, name))
	if err != nil {
		t.Fatal(err)
	}
	p.Histories = 200
	return p
}

// The examples are read, every one, and say what is published of their runs.
func TestExamplesOfPlans(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(plans, "*", ProjectName))
	if err != nil || len(dirs) < 2 {
		t.Fatalf("%d examples: %v", len(dirs), err)
	}
	for _, d := range dirs {
		if !IsProject(d) || !IsProject(filepath.Dir(d)) {
			t.Errorf("%s is not seen to be a plan file", d)
		}
		if _, err := ReadProject(d); err != nil {
			t.Error(err)
		}
	}
	if IsProject("../../examples/sums") || IsProject("../../examples/sums/release.yaml") {
		t.Error("a release is taken for a plan file")
	}
	out, err := project(t, "llama3-405b").Plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := out.Chosen(); c == nil || c.Pool != "llama3-h100" || !out.Gate.Passed() {
		t.Errorf("Llama 3 405B on its own cluster: %+v", out.Gate)
	}
	if m := out.Models[0]; m.Parameters.Total != 405_853_388_800 {
		t.Errorf("Llama 3.1 405B has 405,853,388,800 parameters, counted %d", m.Parameters.Total)
	}
	for _, want := range []string{"model, causal attention", "hardware, full attention", "Young every", "rejected\n", "the steps alone take"} {
		if !strings.Contains(out.Text(), want) {
			t.Errorf("the plan does not say %q\n%s", want, out.Text())
		}
	}
}

// A policy refuses with its clause; a waiver lifts it and is named.
func TestPolicyInAProject(t *testing.T) {
	p := project(t, "deepseek-v3")
	for i, c := range p.clusters {
		if c.Vendor == "nvidia" {
			p.clusters[i].Site = "state"
		}
	}
	out, err := p.Plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range out.Choices {
		if c.Pool == "deepseek-h800" && !strings.Contains(c.Rejected, "policy home-1: no foreign chips") {
			t.Errorf("%s, %s: %q", c.Pool, c.Recipe, c.Rejected)
		}
	}
	if c := out.Chosen(); c == nil || c.Pool != "ascend-910c" || out.Gate.Verdict != gate.Inconclusive {
		t.Errorf("with the foreign pool refused: %+v", out.Gate)
	}
	p.Policy[0].Waiver = spec.Waiver{By: "director", Why: "until the domestic pool is qualified"}
	if out, err = p.Plan(nil, nil); err != nil {
		t.Fatal(err)
	}
	if c := out.Chosen(); c == nil || c.Pool != "deepseek-h800" || len(c.Waivers) != 1 || !strings.Contains(c.Waivers[0], "director") {
		t.Errorf("with a waiver: %+v", out.Gate)
	}
}

// What was measured narrows the forecast and is no longer listed as not known.
func TestMeasuredReplacesTheInventory(t *testing.T) {
	width := func(edit func(*Cluster)) (float64, string) {
		p := project(t, "deepseek-v3")
		for i := range p.clusters {
			p.clusters[i].NoConvergence = Range{}
			edit(&p.clusters[i])
		}
		out, err := p.Plan(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range out.Choices {
			if c.Pool == "ascend-910c" && c.Run != nil {
				return float64(c.Run.P90 - c.Run.P10), strings.Join(c.Unknown, "\n")
			}
		}
		t.Fatal("no forecast for ascend-910c")
		return 0, ""
	}
	before, unknown := width(func(*Cluster) {})
	after, known := width(func(c *Cluster) {
		Measurement{MFU: &Range{Low: 0.26, High: 0.29}, Hazard: &Range{Low: 25, High: 35}}.into(c)
	})
	if after > 0.6*before {
		t.Errorf("P10–P90 is %.0f h with what was measured, %.0f h without", after, before)
	}
	if !strings.Contains(unknown, "10–110") || strings.Contains(known, "hazard") || strings.Contains(known, "MFU") {
		t.Errorf("not known before:\n%s\nafter:\n%s", unknown, known)
	}
}

func TestDetectedPools(t *testing.T) {
	p := project(t, "llama3-405b")
	p.Pools[1].Detect = "ascend"
	found := Inventory{{Name: "n1", Absent: map[device.Vendor]string{device.Ascend: "npu-smi is not installed"}}}
	out, err := p.Plan(found, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "npu-smi is not installed") {
		t.Errorf("notes %q", out.Notes)
	}
	found = nil
	for i := range 3 {
		n := device.Node{Name: fmt.Sprintf("n%d", i)}
		for k := range 8 {
			n.Devices = append(n.Devices, device.Device{ID: fmt.Sprint(k), Vendor: device.Ascend, Model: "910C", Memory: 64 << 30, Health: device.Healthy})
		}
		found = append(found, n)
	}
	if out, err = p.Plan(found, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range out.Choices {
		if c.Pool == "ascend-910c" && !strings.Contains(c.Rejected, "needs 128 devices for one replica") {
			t.Errorf("on 24 detected devices: %q", c.Rejected)
		}
	}
}

// A layout that is searched for fits, and is not slower than the one by hand.
func TestSearchedLayoutsFit(t *testing.T) {
	for _, name := range []string{"llama3", "deepseek-v3", "ascend-910b", "ascend-910c"} {
		c := cluster(t, name)
		for _, w := range []Workload{llamaRun(), deepseekRun()} {
			w.DType, w.Memory = "bfloat16", MixedAdamW()
			time := func(l Layout) Seconds {
				w.Layout = l
				w.Layout, _ = c.replicas(w)
				s, err := Step(w, c.Peak["bfloat16"].Dense(0.5), c.links(), 0.5)
				if err != nil {
					t.Fatalf("%s on %s at %v: %v", w.Name, name, l, err)
				}
				return s.Total()
			}
			byHand := w.Layout
			found := c.search(w)
			m, err := DeviceMemory(w.Shape, found, w.Sequence, w.Memory)
			if err != nil || m.Total() > Bytes((c.MemoryGiB-c.ReserveGiB)*(1<<30)) {
				t.Errorf("%s on %s: %v needs %v (%v)", w.Name, name, found, m.Total(), err)
			}
			if found.Recompute != "full" && byHand.Recompute != "none" && time(found) > time(byHand)*1.05 {
				t.Errorf("%s on %s: %v takes %v, by hand %v takes %v", w.Name, name, found, time(found), byHand, time(byHand))
			}
		}
	}
}

// edited is a copy of an example with texts replaced, in a folder that holds what it names.
func edited(t *testing.T, change ...string) string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{plans + "/deepseek-v3": "p/d", "../../examples/clusters": "clusters"} {
		if err := os.CopyFS(filepath.Join(dir, to), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(change); i += 3 {
		path := filepath.Join(dir, change[i])
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), change[i+1]) {
			t.Fatalf("%s no longer has %q", change[i], change[i+1])
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), change[i+1], change[i+2], 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "p", "d")
}

// Everything that the issue lists as bad input: the message has the file, the line and the field.
func TestBadPlanFiles(t *testing.T) {
	const (
		file, config, inventory = "p/d/plan.yaml", "p/d/config.json", "clusters/ascend-910c.yaml"
	)
	for _, c := range []struct {
		name         string
		path, from   string
		to           string
		line, hint   string
		alsoMentions string
	}{
		{"sizes against the published total", file, "parameters: 671e9", "parameters: 405e9", "plan.yaml:17:", "parameters", "the sizes give 671,026,4"},
		{"sizes that contradict each other", config, `"num_experts_per_tok": 8`, `"num_experts_per_tok": 800`, "plan.yaml:", "num_experts_per_tok 800 is more than", "config.json"},
		{"no known architecture", config, `"model_type": "deepseek_v3"`, `"model_type": "mamba"`, "plan.yaml:", `"mamba"`, "line 12"},
		{"config that is no JSON", config, `"hidden_size": 7168`, `"hidden_size": oops`, "plan.yaml:", "config.json", "line 8"},
		{"no peak", inventory, "peak:  ", "peaks:  ", "ascend-910c.yaml:", "peak", "did you mean"},
		{"no memory", inventory, "memory_gib: 128", "memory_gib: 0", "ascend-910c.yaml:11:", "memory_gib", ""},
		{"negative hazard", inventory, "hazard: {low: 10", "hazard: {low: -10", "ascend-910c.yaml:", "hazard: -10 is negative", ""},
		{"a claim used alone", inventory, "hazard: {low: 10, high: 110", "hazard: {low: 10, high: 10", "ascend-910c.yaml:", "never used alone", ""},
		{"no way of counting", inventory, "count: model", "count: both", "ascend-910c.yaml:", "count", "hardware"},
		{"a day that does not exist", file, "starts: [2027-01-04]", "starts: [2027-02-30]", "plan.yaml:33:", "not a date that exists", "2027-02-30"},
		{"start after the deadline", file, "starts: [2027-01-04]", "starts: [2027-07-04]", "plan.yaml:33:", "not before the deadline", ""},
		{"negative rate", file, "rate: {low: 1000", "rate: {low: -1000", "plan.yaml:", "-1000 is negative", ""},
		{"unknown field", file, "tokens: 14.8e12", "token: 14.8e12", "plan.yaml:20:", "did you mean `tokens`", ""},
		{"no model", file, "    model: .\n    parameters", "    parameters", "plan.yaml:", "either a model", ""},
		{"unknown optimizer", file, "optimizer: adamw-bf16-moments", "optimizer: lion9", "plan.yaml:", "lion9", "adamw-bf16-moments"},
		{"unknown stage", file, "after: [train, label]", "after: [train, labels]", "plan.yaml:", "labels", "not among the stages"},
		{"stages in a ring", file, "{name: train, run: true}", "{name: train, run: true, after: [serve]}", "plan.yaml:", "waits for itself", ""},
		{"a clause without words", file, "text: no foreign chips in state-funded data centres\n", "stage: train\n", "plan.yaml:", "no text", ""},
		{"experts that do not divide", file, "layouts: [{pp: 16, ep: 64", "layouts: [{pp: 16, ep: 60", "plan.yaml:23:", "256 experts over ep 60", ""},
		{"inventory that is not there", file, "../../clusters/ascend-910b.yaml", "../../clusters/none.yaml", "", "none.yaml", ""},
		{"money without the worth of a day", file, "preference: {days: 30}", "preference: {days: 30, money: 5}", "plan.yaml:", "day_worth", ""},
		{"too few tokens", file, "tokens: 14.8e12", "tokens: -1", "plan.yaml:", "tokens -1: must be positive", ""},
	} {
		_, err := ReadProject(edited(t, c.path, c.from, c.to))
		if err == nil {
			t.Errorf("%s: was read", c.name)
			continue
		}
		for _, want := range []string{c.line, c.hint, c.alsoMentions} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: no %q in:\n%v", c.name, want, err)
			}
		}
		var places *spec.Error
		if c.line != "" && !errors.As(err, &places) {
			t.Errorf("%s: without places: %v", c.name, err)
		}
	}
}

func TestOwnFaults(t *testing.T) {
	dir := edited(t, "p/d/plan.yaml", "name: deepseek-v3\n", "name: deepseek-v3\nfaults: {file: faults.csv, nodes: 50, hours: 1000}\n")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "faults.csv"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("node,start_h,end_h,level,class,description\n1,1,10,a,b,c\n1,5,6,a,b,c\n")
	if _, err := ReadProject(dir); err == nil || !strings.Contains(err.Error(), "faults.csv: trace: line 3: node 1: the fault from 5.00 h begins before the one of line 2 ends") {
		t.Errorf("overlapping faults: %v", err)
	}
	write("node,start_h,end_h,level,class,description\n1,1,10,a,b,c\n2,500,600,a,b,c\n")
	p, err := ReadProject(dir)
	if err != nil || p.trace.Nodes != 50 || len(p.trace.Faults) != 2 {
		t.Errorf("own faults: %+v, %v", p, err)
	}
}

// Published configurations of several architectures give the published sizes.
func TestArchitectures(t *testing.T) {
	for _, c := range []struct {
		config string
		total  int64
	}{
		{`{"model_type":"llama","num_hidden_layers":32,"hidden_size":4096,"vocab_size":128256,"intermediate_size":14336,"num_attention_heads":32,"num_key_value_heads":8}`, 8_030_261_248},
		{`{"model_type":"mistral","num_hidden_layers":32,"hidden_size":4096,"vocab_size":32000,"intermediate_size":14336,"num_attention_heads":32,"num_key_value_heads":8,"sliding_window":null}`, 7_241_732_096},
		{`{"model_type":"mixtral","num_hidden_layers":32,"hidden_size":4096,"vocab_size":32000,"intermediate_size":14336,"num_attention_heads":32,"num_key_value_heads":8,"num_local_experts":8,"num_experts_per_tok":2}`, 46_702_792_704},
		{`{"model_type":"qwen2","num_hidden_layers":28,"hidden_size":3584,"vocab_size":152064,"intermediate_size":18944,"num_attention_heads":28,"num_key_value_heads":4,"tie_word_embeddings":false}`, 7_615_616_512},
		{`{"model_type":"qwen3","num_hidden_layers":28,"hidden_size":1024,"vocab_size":151936,"intermediate_size":3072,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"tie_word_embeddings":true}`, 596_049_920},
	} {
		s, err := ParseShape([]byte(c.config))
		if err != nil {
			t.Error(err)
		} else if got := Params(s).Total; got != c.total {
			t.Errorf("%s: %d parameters, its files hold %d", s.Type, got, c.total)
		}
	}
}

func FuzzParseShape(f *testing.F) {
	for _, name := range []string{"deepseek-v3", "llama3-405b"} {
		b, err := os.ReadFile(filepath.Join(plans, name, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseShape(b)
		if err != nil {
			return
		}
		if p := Params(s); p.Total <= 0 || p.Active <= 0 {
			t.Fatalf("%+v counts %+v", s, p)
		}
	})
}
