package plan

import (
	"math"
	"strings"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

func TestChipTable(t *testing.T) {
	table, err := chips()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range table {
		if c.vendor == "" || c.prefix == "" || c.dtype == "" || c.peak.Source == "" || c.peak.check(c.prefix, true) != nil {
			t.Errorf("row %+v", c)
		}
	}
	for _, c := range []struct {
		vendor device.Vendor
		model  string
		dtype  string
		want   float64 // of the high end; 0 = not there
	}{
		{device.NVIDIA, "NVIDIA H100 80GB HBM3", "bfloat16", 989},
		{device.NVIDIA, "NVIDIA H200", "bfloat16", 989},
		{device.NVIDIA, "NVIDIA H20", "bfloat16", 148}, // not an H200
		{device.NVIDIA, "NVIDIA L40S", "bfloat16", 362},
		{device.NVIDIA, "Tesla V100-SXM2-32GB", "float16", 125},
		{device.NVIDIA, "Tesla V100-SXM2-32GB", "bfloat16", 0},
		{device.Ascend, "Ascend910B3", "bfloat16", 376},
		{device.NVIDIA, "910B3", "bfloat16", 0},
		{device.NVIDIA, "NVIDIA Z9", "bfloat16", 0},
	} {
		if got := peaks(table, device.Device{Vendor: c.vendor, Model: c.model})[c.dtype].High; got != c.want {
			t.Errorf("%s %s %s: %g, want %g", c.vendor, c.model, c.dtype, got, c.want)
		}
	}
}

// A pool of chips passes on an assumed rate that says what is assumed; one of which
// nothing is known stays inconclusive and says what to write.
func TestAPoolWithoutAMeasuredRate(t *testing.T) {
	for _, c := range []struct {
		name    string
		model   string
		edit    func(*spec.Release)
		verdict gate.Verdict
		says    []string
	}{
		{"PyTorch in bfloat16", "NVIDIA H100 80GB HBM3", nil, gate.Pass,
			[]string{"P90 ", "not measured: bfloat16 756–989 TFLOP/s dense (NVIDIA H100 data sheet", "training reaches 0.2–40 % (assumed", "qualify measures it"}},
		{"a program whose arithmetic nobody says", "NVIDIA H100 80GB HBM3",
			func(s *spec.Release) { s.Train.Trainer, s.Train.Command = spec.TrainerCommand, []string{"x"} }, gate.Pass,
			[]string{"bfloat16 or float16 or float32 51–989 TFLOP/s"}},
		{"a chip of which no table knows", "NVIDIA Z9", nil, gate.Inconclusive,
			[]string{"no rate of nvidia Z9 is known", "pool gpu in the release file", "tflops: 300"}},
		{"a dtype that the chip has no figure of", "Tesla V100-SXM2-32GB", nil, gate.Inconclusive, []string{"no bfloat16 rate of nvidia V100-SXM2-32GB is known"}},
		{"written by hand", "NVIDIA Z9", func(s *spec.Release) { s.Pools[0].TFLOPS, s.Pools[0].MFU = 500, []float64{0.3, 0.4} }, gate.Pass,
			[]string{"bfloat16 500 TFLOP/s dense (the release file), of which training reaches 30–40 % (the release file)"}},
		{"a deadline between the best and the worst case", "NVIDIA H100 80GB HBM3", func(s *spec.Release) { s.Plan.Deadline = spec.Duration(300 * time.Millisecond) }, gate.Inconclusive,
			[]string{"P50", "is not", "mfu: [0.2, 0.4]"}},
		{"a deadline that not even the best case meets", "NVIDIA H100 80GB HBM3", func(s *spec.Release) { s.Plan.Deadline = spec.Duration(time.Microsecond) }, gate.Fail,
			[]string{"would take", "at bfloat16 756–989"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sums()
			s.Pools = []spec.Pool{
				{Name: "gpu", Vendor: device.NVIDIA, Roles: []spec.Role{spec.Preferred}},
				{Name: "cpu", Vendor: device.CPU, Roles: []spec.Role{spec.Target}},
			}
			s.Train.Trainer, s.Train.Torchrun.Precision = spec.TrainerTorchrun, "bfloat16"
			if c.edit != nil {
				c.edit(s)
			}
			n := laptop()
			n.Devices = append(n.Devices, device.Device{ID: "GPU-1", Vendor: device.NVIDIA, Model: c.model, Memory: 80 << 30, Health: device.Healthy})
			p := Make(s, Inventory{n}, measured())
			text := p.Gate.Reason
			for _, x := range p.Gate.Checks {
				text += "\n" + x.Detail
			}
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("the gate does not say %q:\n%s", want, text)
				}
			}
			if p.Gate.Verdict != c.verdict {
				t.Errorf("gate %s, want %s:\n%s", p.Gate.Verdict, c.verdict, text)
			}
			if c.verdict == gate.Pass && !strings.Contains(p.Table(), "TFLOP/s dense") {
				t.Errorf("the table does not say what the time rests on:\n%s", p.Table())
			}
		})
	}
}

// A measured rate is a forecast: training is exactly tokens over rate within its
// bounds, and sampling comes on top.
func TestForecastAtAMeasuredRate(t *testing.T) {
	p := Make(sums(), Inventory{laptop()}, measured())
	whole, training := p.AtRate(1000)
	if whole == nil || training == nil {
		t.Fatal("no forecast")
	}
	perToken := p.Stages[0].Train / FLOPs(p.Stages[0].Tokens)
	var tokens float64
	for _, s := range p.Stages {
		tokens += float64(s.Train / perToken)
	}
	if got, want := float64(training.P50), tokens/1000/measuredTraining.at(0.5); math.Abs(got/want-1) > 1e-9 {
		t.Errorf("training P50 %g s, want %g", got, want)
	}
	if whole.P50 <= training.P50 || whole.P90 <= whole.P50 || training.P10 >= training.P50 {
		t.Errorf("whole %+v, training %+v", whole, training)
	}
	if half, _ := p.AtRate(500); math.Abs(float64(half.P50/whole.P50)-2) > 1e-9 {
		t.Errorf("at half the rate it takes %v, not twice %v", half.P50, whole.P50)
	}
	if w, _ := p.AtRate(0); w != nil {
		t.Error("a forecast at no rate")
	}
}
