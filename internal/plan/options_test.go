package plan

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarbert/internal/spec"
)

func cluster(t *testing.T, name string) Cluster {
	t.Helper()
	c, err := ReadCluster(filepath.Join("../../examples/clusters", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func date(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

func request(t *testing.T, histories int) Request {
	t.Helper()
	bf16 := deepseekRun()
	bf16.Name, bf16.DType, bf16.Memory = "deepseek-v3-bf16", "bfloat16", Precision{Weights: 2, Gradients: 4, Optimizer: 8, Activation: 2}
	// Our count of activations is a few GiB above what Meta fitted without recomputation.
	llama := llamaRun()
	llama.Layout.Recompute = "selective"
	return Request{
		Clusters: []Cluster{cluster(t, "llama3"), cluster(t, "deepseek-v3"), cluster(t, "ascend-910b"), cluster(t, "ascend-910c")},
		Recipes:  []Workload{llama, deepseekRun(), bf16},
		Starts:   []time.Time{date(2027, 1, 1)}, Trace: stepfun(t), Histories: histories, Seed: 11,
	}
}

// Published runs on the clusters that they ran on, and on ones that they did not.
func TestOptionsOfRealPools(t *testing.T) {
	r := request(t, 100)
	r.Policy = []spec.Clause{{ID: "home-1", Text: "no training on chips from abroad at meta", Stage: "train", Vendors: []string{"nvidia"}, Sites: []string{"meta"}, From: date(2027, 6, 1)}}
	choices, err := Options(r)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "options.golden", OptionsText(choices))
	by := map[string]Choice{}
	for _, c := range choices {
		by[c.Pool+"/"+c.Recipe] = c
	}
	if c := by["ascend-910c/deepseek-v3"]; !strings.Contains(c.Rejected, "no float8 products") {
		t.Errorf("an FP8 recipe on a chip without it: %q", c.Rejected)
	}
	if c := by["llama3-h100/llama3-405b"]; c.Run == nil || c.Devices != 16384 {
		t.Errorf("Llama 3 on its own cluster: %d devices, %s", c.Devices, c.Rejected)
	}
	// Published: 19.926 s a step (arXiv:2505.09343, table 4).
	if c := by["deepseek-h800/deepseek-v3"]; c.Run == nil || c.Devices != 2048 || c.Step.Total() < 19 || c.Step.Total() > 21 {
		t.Errorf("DeepSeek-V3 took 19.9 s a step on 2,048 H800, planned %v: %s", c.Step.Total(), c.Rejected)
	}
	if c := by["ascend-910b/llama3-405b"]; c.Rejected != "" && !strings.Contains(c.Rejected, "GiB") {
		t.Errorf("Llama 3 on 64 GB devices: %s", c.Rejected)
	}
	for _, c := range choices {
		if strings.HasPrefix(c.Pool, "ascend") && !strings.Contains(strings.Join(c.Unknown, " "), "10–110") {
			t.Errorf("%s does not say that its hazard is not known: %q", c.Pool, c.Unknown)
		}
	}
}

func TestPolicy(t *testing.T) {
	home := spec.Clause{ID: "p1", Text: "domestic chips only", Stage: "train", Vendors: []string{"nvidia"}, Sites: []string{"state"}, From: date(2025, 11, 5)}
	waived := home
	waived.Waiver = spec.Waiver{By: "director", Until: date(2026, 6, 1), Why: "in progress"}
	for _, c := range []struct {
		name        string
		clause      spec.Clause
		vendor      string
		site        string
		from, to    time.Time
		refused     string
		waivers     int
		stage       string
		description string
	}{
		{"refused", home, "nvidia", "state", date(2026, 1, 1), date(2026, 2, 1), "policy p1", 0, "train", ""},
		{"ends before it begins", home, "nvidia", "state", date(2025, 1, 1), date(2025, 2, 1), "", 0, "train", ""},
		{"runs into it", home, "nvidia", "state", date(2025, 10, 1), date(2025, 12, 1), "policy p1", 0, "train", ""},
		{"another site", home, "nvidia", "private", date(2026, 1, 1), date(2026, 2, 1), "", 0, "train", ""},
		{"another stage", home, "nvidia", "state", date(2026, 1, 1), date(2026, 2, 1), "", 0, "serve", ""},
		{"another vendor", home, "ascend", "state", date(2026, 1, 1), date(2026, 2, 1), "", 0, "train", ""},
		{"waived", waived, "nvidia", "state", date(2026, 1, 1), date(2026, 2, 1), "", 1, "train", ""},
		{"the waiver ends first", waived, "nvidia", "state", date(2026, 5, 1), date(2026, 7, 1), "waiver by director ends 2026-06-01", 0, "train", ""},
	} {
		refusal, waivers := Allowed([]spec.Clause{c.clause}, c.stage, c.vendor, c.site, c.from, c.to)
		if (refusal == "") != (c.refused == "") || !strings.Contains(refusal, c.refused) || len(waivers) != c.waivers {
			t.Errorf("%s: %q, waivers %q", c.name, refusal, waivers)
		}
	}
}

// An option that is dominated (later on the same pool's better twin) is never chosen.
func TestDominatedIsNeverChosen(t *testing.T) {
	base := cluster(t, "deepseek-v3")
	tr := stepfun(t)
	for i := range 5 {
		k := 1 + float64(i)/4
		worse := base
		worse.Name = "worse"
		worse.MFU = Range{Low: base.MFU.Low * (0.9 / k), High: base.MFU.High * 0.9}
		worse.MFU.Low = min(worse.MFU.Low, worse.MFU.High)
		worse.Hazard = Range{Low: base.Hazard.Low * 2, High: base.Hazard.High * (2 * k)}
		choices, err := Options(Request{
			Clusters: []Cluster{worse, base}, Recipes: []Workload{deepseekRun()}, Starts: []time.Time{date(2027, 1, 1), date(2027, 2, 1)},
			Trace: tr, Histories: 20, Seed: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if c := choices[0]; !c.Chosen || c.Pool != base.Name || !c.Start.Equal(date(2027, 1, 1)) {
			t.Fatalf("chose %s from %v", c.Pool, c.Start)
		}
	}
}

func TestClustersThatCannotBe(t *testing.T) {
	for want, edit := range map[string]func(*Cluster){
		"peak is missing": func(c *Cluster) { c.Peak = nil }, "memory_gib 0": func(c *Cluster) { c.MemoryGiB = 0 },
		"hazard: -1 is negative": func(c *Cluster) { c.Hazard.Low = -1 }, "peak_dtype": func(c *Cluster) { c.PeakDType = "int4" },
		"attention": func(c *Cluster) { c.Attention = "" }, "mfu: must be positive": func(c *Cluster) { c.MFU = Range{} },
		"links: domain": func(c *Cluster) { c.Links.Domain = 0 }, "mfu: low": func(c *Cluster) { c.MFU = Range{Low: 0.5, High: 0.4} },
	} {
		c := cluster(t, "llama3")
		edit(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// Sparse peaks count as half: the fourth convention.
func TestSparsePeak(t *testing.T) {
	if got := (Peak{TFLOPS: Known(1979, ""), Sparse: true}).Dense(0.5); got != 989.5e12 {
		t.Errorf("dense rate of NVIDIA's sparse 1,979: %v", got)
	}
}

// Twice the nodes, spares and all, never finish later (P50), unless communication is the stated reason.
func TestTwiceTheNodes(t *testing.T) {
	tr := stepfun(t)
	played := 0
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 3))
		c := cluster(t, "llama3")
		c.Nodes, c.SpareNodes = 32<<rng.IntN(6), 4
		c.Hazard = Range{Low: 5, High: 5 * math.Pow(600, rng.Float64())}
		c.Restart.Detect = Range{Low: 10, High: 10 * math.Pow(700, rng.Float64())}
		c.Links.Across = 5 + 95*rng.Float64()
		c.NoConvergence = Range{}
		w := llamaRun()
		w.Layout, w.Tokens = Layout{TP: 8, PP: 4, ZeRO: 3, Recompute: "full"}, 2e12
		finish := func(c Cluster) Choice {
			choices, err := Options(Request{Clusters: []Cluster{c}, Recipes: []Workload{w}, Starts: []time.Time{date(2027, 1, 1)}, Trace: tr, Histories: 60, Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			return choices[0]
		}
		one := finish(c)
		c.Nodes, c.SpareNodes = 2*c.Nodes, 2*c.SpareNodes
		two := finish(c)
		switch {
		case one.Run == nil:
			continue
		case two.Run == nil:
			if !strings.Contains(two.Rejected, "communication") {
				t.Errorf("seed %d, twice the nodes: %s", seed, two.Rejected)
			}
		case two.Run.P50 > one.Run.P50*1.05 && !strings.Contains(two.Limit, "communication"):
			t.Errorf("seed %d: %d nodes finish in %v (P50), %d in %v; it says %s", seed, c.Nodes/2, one.Run.P50, c.Nodes, two.Run.P50, two.Limit)
		}
		played++
	}
	if played < 12 {
		t.Errorf("only %d of the cases have a run to double", played)
	}
}
