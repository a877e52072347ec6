package plan

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tarbert/internal/device"
	"tarbert/internal/spec"
)

//go:embed chips.csv
var chipTable string

// Speed is what a chip's forecast rests on where no rate was measured. Its
// numbers are ranges whose sources say what is assumed; qualify measures it.
type Speed struct {
	DType   string `json:"dtype"`
	Peak    Range  `json:"peak_tflops"` // of dense products
	MFU     Range  `json:"mfu"`         // of training, in model FLOPs
	Rollout Range  `json:"rollout"`     // the same of sampling, which multiplies by a token a sequence at a time
}

// The shares of the peak that are assumed. Published runs of large models reach
// 0.2 to 0.5 (the tables beside the tests); eager PyTorch, a short context or one
// chip of a kind that is new to the program reaches less, and a small model, whose
// products do not fill the chip, a hundredth of that.
var (
	assumedMFU      = Range{Low: 0.05, High: 0.5, Source: "assumed: published runs of large models reach 0.2 to 0.5"}
	assumedSmall    = Range{Low: 0.002, High: 0.4, Source: "assumed wide: models below a billion parameters do not fill a chip"}
	assumedSampling = 0.1 // of the training's share, at the high end; a hundredth at the low one
)

const smallModel = 1_000_000_000 // parameters

// chip is a row of chips.csv.
type chip struct {
	vendor device.Vendor
	prefix string
	dtype  string
	peak   Range
}

func chips() ([]chip, error) {
	r := csv.NewReader(strings.NewReader(chipTable))
	r.Comment = '#'
	r.FieldsPerRecord = 6
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("chips.csv: %w", err)
	}
	var out []chip
	for _, row := range rows {
		low, err1 := strconv.ParseFloat(row[3], 64)
		high, err2 := strconv.ParseFloat(row[4], 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("chips.csv: %v: not a range", row)
		}
		out = append(out, chip{device.Vendor(row[0]), row[1], row[2], Range{Low: low, High: high, Source: row[5]}})
	}
	return out, nil
}

// peaks finds a device's rates by dtype: those of the longest prefix of its model.
func peaks(table []chip, d device.Device) map[string]Range {
	model := d.Name()
	out, longest := map[string]Range{}, 0
	for _, c := range table {
		if c.vendor != d.Vendor || !strings.HasPrefix(model, c.prefix) || len(c.prefix) < longest {
			continue
		}
		if len(c.prefix) > longest {
			out, longest = map[string]Range{}, len(c.prefix)
		}
		out[c.dtype] = c.peak
	}
	return out
}

// Arithmetic is what a pool's trainer computes in; empty where nobody says: a
// program's own.
func Arithmetic(s *spec.Release, pool string) string {
	switch name, _ := s.TrainerOf(pool); name {
	case spec.TrainerTorchrun:
		return s.Train.Torchrun.Precision
	case spec.TrainerReference:
		return s.Train.DType
	}
	return ""
}

// assume is what a chip's rate is taken to be, or why none can be.
func (p *Plan) assume(s *spec.Release, pool spec.Pool, d device.Device) (*Speed, string) {
	out := &Speed{DType: Arithmetic(s, pool.Name), MFU: assumedMFU}
	if p.Parameters.Total < smallModel {
		out.MFU = assumedSmall
	}
	if len(pool.MFU) == 2 {
		out.MFU = Range{Low: pool.MFU[0], High: pool.MFU[1], Source: "the release file"}
	}
	out.Rollout = Range{Low: out.MFU.Low * assumedSampling / 10, High: out.MFU.High * assumedSampling, Source: "assumed: a thousandth to a tenth of what training may reach"}
	if pool.TFLOPS > 0 {
		out.Peak = Known(pool.TFLOPS, "the release file")
		return out, ""
	}
	table, err := chips()
	if err != nil {
		return nil, err.Error()
	}
	known := peaks(table, d)
	if peak, ok := known[out.DType]; ok {
		out.Peak = peak
		return out, ""
	}
	ask := fmt.Sprintf("write its dense peak to pool %s in the release file, in TFLOP/s: tflops: 300 (and mfu: [0.2, 0.4], if you know what share training reaches)", pool.Name)
	if len(known) == 0 {
		return nil, fmt.Sprintf("no rate of %s %s is known: %s", d.Vendor, d.Name(), ask)
	}
	if out.DType != "" {
		return nil, fmt.Sprintf("no %s rate of %s %s is known: %s", out.DType, d.Vendor, d.Name(), ask)
	}
	dtypes := sortedKeys(known)
	out.DType = strings.Join(dtypes, " or ")
	for _, dtype := range dtypes {
		r := known[dtype]
		if out.Peak.High == 0 {
			out.Peak = r
			continue
		}
		sources := []string{out.Peak.Source, r.Source}
		out.Peak = Range{Low: min(out.Peak.Low, r.Low), High: max(out.Peak.High, r.High), Source: strings.Join(slices.Compact(sources), "; ")}
	}
	return out, ""
}

// time is the forecast at such a speed.
func (s Speed) time(stages []Stage) Time {
	share := func(r Range) Efficiency { return Efficiency{Low: s.Peak.Low * r.Low, High: s.Peak.High * r.High} }
	return forecast(stages, 1e12, share(s.MFU), share(s.Rollout))
}

// String is "bfloat16 756–989 TFLOP/s (source), of which training reaches 5–50 % (source)".
func (s Speed) String() string {
	return fmt.Sprintf("%s %v TFLOP/s dense (%s), of which training reaches %s–%s %% (%s)",
		s.DType, s.Peak, s.Peak.Source, trim3(100*s.MFU.Low), trim3(100*s.MFU.High), s.MFU.Source)
}

// Bounds of what a short measured run says of a long one: its first steps are
// colder, and it has no checkpoints and no interruptions.
var (
	measuredTraining = Efficiency{Low: 1 / 1.5, High: 1.2}
	// Sampling was not measured: what it reaches of the training's rate is assumed.
	measuredSampling = Efficiency{Low: 0.01, High: 0.5}
)

// AtRate is the forecast for a pool where so many tokens a second were measured in
// SFT, and the part of it that samples nothing. nil where there is nothing to count.
func (p *Plan) AtRate(tokensPerSecond float64) (whole, training *Time) {
	var perToken FLOPs
	for _, st := range p.Stages {
		if st.Sampled == 0 && st.Tokens > 0 {
			perToken = st.Train / FLOPs(st.Tokens)
		}
	}
	if !(perToken > 0) || !(tokensPerSecond > 0) {
		return nil, nil
	}
	rate := Rate(float64(perToken) * tokensPerSecond)
	w := forecast(p.Stages, rate, measuredTraining, measuredSampling)
	bare := slices.Clone(p.Stages)
	for i := range bare {
		bare[i].Rollout = 0
	}
	t := forecast(bare, rate, measuredTraining, measuredSampling)
	return &w, &t
}
