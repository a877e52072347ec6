package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

var update = flag.Bool("update", false, "rewrite golden files")

func cpuDevice() device.Device {
	return device.Device{ID: "cpu", Vendor: device.CPU, Model: "Xeon", Cores: 2, Memory: 8 << 30, Health: device.Healthy}
}

// laptop is a node with processors only.
func laptop() device.Node {
	return device.Node{
		Name: "node1", OS: "linux", Arch: "amd64", Devices: []device.Device{cpuDevice()},
		Absent: map[device.Vendor]string{
			device.Ascend: "npu-smi not found in PATH", device.NVIDIA: "nvidia-smi not found in PATH",
		},
	}
}

// sums is a release like examples/sums without its files.
func sums() *spec.Release {
	s := spec.New()
	s.Name = "sums"
	s.Pools = []spec.Pool{
		{Name: "ascend", Vendor: device.Ascend, Executor: "local", Roles: []spec.Role{spec.Preferred}},
		{Name: "nvidia", Vendor: device.NVIDIA, Executor: "local", Roles: []spec.Role{spec.Fallback}},
		{Name: "cpu", Vendor: device.CPU, Executor: "local", Roles: []spec.Role{spec.Fallback, spec.Reference, spec.Target}},
	}
	s.Plan.Deadline = spec.Duration(30 * time.Minute)
	s.Train.SFT.Steps, s.Train.SFT.Batch = 400, 64
	s.Train.GRPO.Steps, s.Train.GRPO.Prompts, s.Train.GRPO.Samples, s.Train.GRPO.MaxTokens = 30, 32, 8, 48
	return s
}

// sumsShape is examples/sums/model.
func sumsShape() ModelShape {
	return ModelShape{
		Type: "deepseek_v3", Layers: 3, Hidden: 96, Vocabulary: 264, Intermediate: 256, Heads: 4, KVHeads: 4, QK: 32, V: 24,
		KVLoraRank: 32, QKRope: 16, MoELayers: 2, Experts: 8, ExpertsPerToken: 2, SharedExperts: 1, ExpertIntermediate: 64, RouterBias: true,
	}
}

func measured() Measured {
	return Measured{GFLOPS: 200, Model: sumsShape(), Tokens: Tokens{Example: 30.6, Prompt: 7.9, Completion: 22.7}}
}

func TestGoldenTable(t *testing.T) {
	p := Make(sums(), Inventory{laptop()}, measured())
	got := p.Table()
	path := filepath.Join("testdata", "sums.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run go test -update and read what changed (-want +got):\n%s", diff)
	}
	if !p.Gate.Passed() || p.Train.Pool != "cpu" || p.Target.Pool != "cpu" || p.Reference.Pool != "cpu" || p.Steps != 430 {
		t.Errorf("train %+v, target %+v, %d steps: %s", p.Train, p.Target, p.Steps, p.Gate.Reason)
	}
}

func TestOptions(t *testing.T) {
	npu := device.Device{ID: "npu0", Vendor: device.Ascend, Model: "910B3", Memory: 64 << 30, Health: device.Healthy}
	node := func(devices ...device.Device) device.Node {
		n := laptop()
		n.Devices = append(devices, n.Devices...)
		return n
	}
	for _, c := range []struct {
		name    string
		inv     Inventory
		edit    func(*spec.Release, *Measured)
		train   string
		verdict gate.Verdict
		// rejected holds a piece of the reason per "pool role".
		rejected map[string]string
	}{
		{
			"the tools are not installed", Inventory{laptop()}, nil, "cpu", gate.Pass,
			map[string]string{"ascend preferred": "no ascend device on node1: npu-smi not found in PATH", "nvidia fallback": "nvidia-smi not found"},
		},
		{
			"the chip is there, but the trainer is not for it", Inventory{node(npu)}, nil, "cpu", gate.Pass,
			map[string]string{"ascend preferred": "the reference trainer runs on cpu only, not on ascend"},
		},
		{
			"the preferred pool is taken where it can train", Inventory{laptop()},
			func(s *spec.Release, _ *Measured) {
				s.Pools = append(s.Pools, spec.Pool{Name: "spare", Vendor: device.CPU, Roles: []spec.Role{spec.Preferred}})
			}, "spare", gate.Pass, nil,
		},
		{
			"an unhealthy device", Inventory{{Name: "n", Devices: []device.Device{{ID: "cpu", Vendor: device.CPU, Health: device.Unhealthy, Detail: "on fire"}}}}, nil,
			"", gate.Fail, map[string]string{"cpu fallback": "cpu on n is unhealthy (on fire)", "cpu target": "on fire", "ascend preferred": "no ascend device on n"},
		},
		{
			"a device whose tool hangs is not taken", Inventory{{Name: "n", Devices: []device.Device{{ID: "cpu", Vendor: device.CPU, Health: device.Unknown, Detail: "no answer in 5s"}}}}, nil,
			"", gate.Fail, map[string]string{"cpu fallback": "cpu on n is unknown (no answer in 5s)"},
		},
		{
			"the second node has it", Inventory{{Name: "empty"}, laptop()}, nil, "cpu", gate.Pass,
			map[string]string{"ascend preferred": "no ascend device on empty; no ascend device on node1: npu-smi"},
		},
		{
			"the policy refuses before anything else", Inventory{node(npu)},
			func(s *spec.Release, m *Measured) {
				m.At = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
				s.Policy = []spec.Clause{{ID: "p1", Text: "no processors", Stage: "train", Vendors: []string{"cpu"}, From: m.At}}
			}, "", gate.Fail, map[string]string{"cpu fallback": "policy p1: no processors"},
		},
		{
			"a clause that has not begun", Inventory{laptop()},
			func(s *spec.Release, m *Measured) {
				m.At = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
				s.Policy = []spec.Clause{{ID: "p1", Text: "no processors", Vendors: []string{"cpu"}, From: m.At.Add(time.Hour)}}
			}, "cpu", gate.Pass, nil,
		},
		{"no nodes", nil, nil, "", gate.Fail, map[string]string{"cpu target": "the inventory is empty"}},
		{
			"too late", Inventory{laptop()}, func(s *spec.Release, _ *Measured) { s.Plan.Deadline = spec.Duration(time.Second) }, "", gate.Fail,
			map[string]string{"cpu fallback": "and the deadline is 1.00 s"},
		},
		{
			"too big", Inventory{laptop()}, func(_ *spec.Release, m *Measured) { m.Model.Hidden, m.Model.Layers = 8192, 80 }, "", gate.Fail,
			map[string]string{"cpu fallback": "weights, gradients and moments take"},
		},
		{"no measured rate", Inventory{laptop()}, func(_ *spec.Release, m *Measured) { m.GFLOPS = 0 }, "cpu", gate.Inconclusive, nil},
		{"a rate that is no number", Inventory{laptop()}, func(_ *spec.Release, m *Measured) { m.GFLOPS = math.NaN() }, "cpu", gate.Inconclusive, nil},
		{"no sizes", Inventory{laptop()}, func(_ *spec.Release, m *Measured) { m.Model = ModelShape{} }, "cpu", gate.Inconclusive, nil},
		{
			"no pool may serve", Inventory{laptop()}, func(s *spec.Release, _ *Measured) { s.Pools[2].Roles = []spec.Role{spec.Fallback} }, "cpu", gate.Fail, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m := sums(), measured()
			if c.edit != nil {
				c.edit(s, &m)
			}
			p := Make(s, c.inv, m)
			got := ""
			if p.Train != nil {
				got = p.Train.Pool
			}
			if got != c.train || p.Gate.Verdict != c.verdict {
				t.Errorf("trains on %q, %s (%s); want %q, %s", got, p.Gate.Verdict, p.Gate.Reason, c.train, c.verdict)
			}
			for key, reason := range c.rejected {
				found := false
				for _, o := range p.Options {
					if fmt.Sprint(o.Pool, " ", o.Role) == key {
						found = strings.Contains(o.Rejected, reason)
						if !found {
							t.Errorf("%s is rejected with %q, want %q", key, o.Rejected, reason)
						}
					}
				}
				if !found {
					t.Errorf("no option %q", key)
				}
			}
			if b, err := json.Marshal(p); err != nil {
				t.Errorf("the plan is no JSON: %v", err)
			} else if strings.Contains(string(b), "NaN") {
				t.Errorf("%s", b)
			}
			_ = p.Table()
		})
	}
}

// P50 within the deadline and P90 past it: possible, not promised.
func TestNarrowDeadlineIsInconclusive(t *testing.T) {
	s, m := sums(), measured()
	free := Make(s, Inventory{laptop()}, m)
	s.Plan.Deadline = spec.Duration(float64(time.Second) * float64(free.Seconds.P50+free.Seconds.P90) / 2)
	p := Make(s, Inventory{laptop()}, m)
	if p.Train == nil || p.Gate.Verdict != gate.Inconclusive || !strings.Contains(p.Gate.Reason, "P50") {
		t.Errorf("%s: %s", p.Gate.Verdict, p.Gate.Reason)
	}
}

// The arithmetic by hand, for a shape small enough: no attention, one dense
// layer of hidden 1 and intermediate 1 with a vocabulary of 1: four active weights.
func TestArithmetic(t *testing.T) {
	s := sums()
	s.Train.SFT.Steps, s.Train.SFT.Batch, s.Train.GRPO.Steps = 10, 2, 0
	m := Measured{GFLOPS: 1e-9, Model: ModelShape{Layers: 1, Hidden: 1, Intermediate: 1, Vocabulary: 1}, Tokens: Tokens{Example: 5}}
	s.Plan.Deadline = spec.Duration(time.Hour * 24 * 365)
	p := Make(s, Inventory{laptop()}, m)
	if p.Tokens != 100 || p.FLOPs != 100*6*4 {
		t.Errorf("%v tokens, %v FLOPs, want 100 and 2400", p.Tokens, float64(p.FLOPs))
	}
	middle := Seconds(2400 / math.Sqrt(trainEfficiency.Low*trainEfficiency.High))
	if got := p.Seconds.P50; math.Abs(float64(got-middle)) > 1e-6*float64(middle) {
		t.Errorf("P50 %v s, want %v s: work over rate over the middle efficiency", float64(got), float64(middle))
	}
}

// draw draws a release, an inventory and measurements.
func draw(t *rapid.T) (*spec.Release, Inventory, Measured) {
	s := sums()
	vendors := []device.Vendor{device.CPU, device.NVIDIA, device.Ascend}
	roles := []spec.Role{spec.Preferred, spec.Fallback, spec.Reference, spec.Target}
	s.Pools = nil
	for i := range rapid.IntRange(1, 5).Draw(t, "pools") {
		s.Pools = append(s.Pools, spec.Pool{
			Name: fmt.Sprint("pool", i), Vendor: rapid.SampledFrom(vendors).Draw(t, "vendor"),
			Roles: rapid.SliceOfNDistinct(rapid.SampledFrom(roles), 1, 4, rapid.ID).Draw(t, "roles"),
		})
	}
	s.Plan.Deadline = spec.Duration(rapid.Int64Range(1, int64(100*time.Hour)).Draw(t, "deadline"))
	s.Train.SFT.Steps = rapid.IntRange(1, 5000).Draw(t, "sft")
	s.Train.GRPO.Steps = rapid.IntRange(0, 500).Draw(t, "grpo")
	var inv Inventory
	for i := range rapid.IntRange(0, 3).Draw(t, "nodes") {
		n := device.Node{Name: fmt.Sprint("node", i)}
		for range rapid.IntRange(0, 3).Draw(t, "devices") {
			n.Devices = append(n.Devices, device.Device{
				ID: "d", Vendor: rapid.SampledFrom(vendors).Draw(t, "device"), Memory: rapid.Int64Range(0, 1<<36).Draw(t, "memory"),
				Health: rapid.SampledFrom([]device.Health{device.Healthy, device.Unhealthy, device.Unknown, ""}).Draw(t, "health"),
			})
		}
		inv = append(inv, n)
	}
	m := measured()
	m.GFLOPS = rapid.SampledFrom([]float64{0, 0.1, 20, 200, 5000}).Draw(t, "gflops")
	return s, inv, m
}

// What is chosen was not rejected, has the role, sits on a healthy device of the
// pool's vendor, and nothing before it in the order could have been chosen; what
// is rejected says why; the verdict passes only with both pools and the deadline.
func TestChoiceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, inv, m := draw(t)
		p := Make(s, inv, m)
		trained := false
		for _, o := range p.Options {
			trains := o.Role == spec.Preferred || o.Role == spec.Fallback
			switch {
			case o.Rejected != "" && (o.Chosen || o.Placement != nil):
				t.Fatalf("rejected and chosen: %+v", o)
			case o.Rejected == "" && (o.Placement == nil || o.Placement.Device.Vendor != o.Vendor || o.Placement.Device.Health != device.Healthy):
				t.Fatalf("possible, but where: %+v", o)
			case trains && o.Rejected == "" && !o.Chosen && !trained:
				t.Fatalf("%+v could have trained before what was chosen", o)
			case trains && o.Chosen && trained:
				t.Fatalf("two options train")
			case trains && o.Chosen && (p.Train == nil || p.Train.Pool != o.Pool):
				t.Fatalf("chosen %+v, trains on %+v", o, p.Train)
			}
			trained = trained || trains && o.Chosen
		}
		if trained != (p.Train != nil) {
			t.Fatalf("chosen %v, placement %+v", trained, p.Train)
		}
		if p.Gate.Passed() && (p.Train == nil || p.Target == nil || p.Seconds == nil || p.Seconds.P90 > p.Deadline) {
			t.Fatalf("passes with train %v, target %v, %v of %v", p.Train, p.Target, p.Seconds, p.Deadline)
		}
		if diff := cmp.Diff(p, Make(s, inv, m)); diff != "" {
			t.Fatalf("the same arguments give another plan:\n%s", diff)
		}
	})
}

// More steps, longer examples, longer answers, a wider model or a slower machine
// never take less time; quantiles are in order.
func TestTimeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, m := sums(), measured()
		s.Plan.Deadline = math.MaxInt64
		s.Train.SFT.Steps = rapid.IntRange(1, 5000).Draw(t, "sft")
		s.Train.GRPO.Steps = rapid.IntRange(0, 500).Draw(t, "grpo")
		m.GFLOPS = rapid.Float64Range(1, 1000).Draw(t, "gflops")
		inv := Inventory{laptop()}
		before := *Make(s, inv, m).Seconds
		if before.P10 > before.P50 || before.P50 > before.P90 || before.P10 <= 0 {
			t.Fatalf("%+v", before)
		}
		more := rapid.IntRange(1, 100).Draw(t, "more")
		what := rapid.SampledFrom([]string{"sft", "grpo", "batch", "samples", "example", "completion", "prompt", "hidden", "layers", "experts per token", "slower"}).Draw(t, "what")
		switch what {
		case "sft":
			s.Train.SFT.Steps += more
		case "grpo":
			s.Train.GRPO.Steps += more
		case "batch":
			s.Train.SFT.Batch += more
		case "samples":
			s.Train.GRPO.Samples += more
		case "example":
			m.Tokens.Example += float64(more)
		case "completion":
			m.Tokens.Completion += float64(more)
		case "prompt":
			m.Tokens.Prompt += float64(more)
		case "hidden":
			m.Model.Hidden += more
		case "layers":
			m.Model.Layers += more
		case "experts per token":
			m.Model.ExpertsPerToken += more
		case "slower":
			m.GFLOPS /= float64(1 + more)
		}
		after := *Make(s, inv, m).Seconds
		if after.P10 < before.P10 || after.P50 < before.P50 || after.P90 < before.P90 {
			t.Fatalf("more %s: from %+v to %+v", what, before, after)
		}
	})
}

func TestUnits(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{FLOPs(1.842e12).String(), "1.84 TFLOP"},
		{FLOPs(999.6e9).String(), "1.00 TFLOP"},
		{FLOPs(12).String(), "12.0 FLOP"},
		{Rate(212e9).String(), "212 GFLOP/s"},
		{Bytes(512).String(), "512 B"},
		{Bytes(71.3 * (1 << 30)).String(), "71.3 GiB"},
		{Seconds(0.5).String(), "0.50 s"},
		{Seconds(47.6).String(), "48 s"},
		{Seconds(59.9999).String(), "60 s"},
		{Seconds(160).String(), "2 min 40 s"},
		{Seconds(3*3600 + 12*60).String(), "3 h 12 min"},
		{Seconds(54 * 86400).String(), "54.0 days"},
		{Seconds(math.Inf(1)).String(), "unknown"},
		{grouped(507264), "507,264"}, {grouped(1), "1"}, {grouped(1000), "1,000"}, {grouped(671026419200), "671,026,419,200"}, {grouped(-1000), "-1,000"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// A waiver that was used is the plan's, and so the certificate's; one that was not is not.
func TestWaiversOfTheChosen(t *testing.T) {
	s, m := sums(), measured()
	m.At = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.Policy = []spec.Clause{
		{ID: "p1", Text: "no processors", Stage: "train", Vendors: []string{"cpu"}, Waiver: spec.Waiver{By: "me", Why: "a laptop"}},
		{ID: "p2", Text: "no moon chips", Vendors: []string{"moon"}, Waiver: spec.Waiver{By: "me", Why: "none"}},
	}
	before := Permissions(s, m.At)
	got := Make(s, Inventory{laptop()}, m).Waivers()
	if len(got) != 1 || got[0] != "pool cpu as fallback: p1 (no processors) waived by me without end: a laptop" {
		t.Errorf("waivers %q", got)
	}
	s.Policy[0].Waiver.Until = m.At.AddDate(0, 0, -2)
	if diff := cmp.Diff(before, Permissions(s, m.At)); diff == "" {
		t.Error("a waiver that ran out changes nothing")
	}
}
