package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tarbert/internal/checkpoint"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
)

// Input of the stage.
type Input struct {
	// Checkpoint is the directory of a portable checkpoint, or of any float model.
	Checkpoint string
	Spec       spec.Convert
	// OutDir gets one directory per format. It is the stage's own: outputs of
	// another source or of killed runs in it are removed.
	OutDir   string
	Workers  int // default one per processor
	Progress progress.Func
}

// Output is one converted model.
type Output struct {
	Format      string  `json:"format"`
	Dir         string  `json:"dir"`
	Bytes       int64   `json:"bytes"`   // of its tensors
	Tensors     int     `json:"tensors"` // in it
	Quantised   int     `json:"quantised"`
	Dropped     int     `json:"dropped"`
	WorstSQNR   float64 `json:"worst_sqnr_db,omitempty"` // dB; absent where nothing lost precision
	WorstTensor string  `json:"worst_tensor,omitempty"`
	// Rounding of int8, and what either rounding gives, all int8 weights together, in dB.
	Rounding       Rounding `json:"rounding,omitempty"`
	CompatibleSQNR float64  `json:"compatible_sqnr_db,omitempty"`
	ExactSQNR      float64  `json:"exact_sqnr_db,omitempty"`
	Digest         string   `json:"digest"`
	// Reused says that it was there already, complete, of this source.
	Reused bool         `json:"reused"`
	Record string       `json:"record"` // file with every tensor's error and bound
	Check  *CheckReport `json:"check"`
}

// RunReport is the stage's.
type RunReport struct {
	Checkpoint   string      `json:"checkpoint"`
	SourceDigest string      `json:"source_digest"`
	SourceBytes  int64       `json:"source_bytes"` // of its tensors
	Outputs      []Output    `json:"outputs"`
	Gate         gate.Result `json:"gate"`
}

// Run converts a checkpoint to each format of the spec and checks each with
// independent decoders. A model that cannot be converted faithfully fails the
// gate; the error is for what kept the stage from an answer.
func Run(ctx context.Context, in Input) (*RunReport, error) {
	if len(in.Spec.Formats) == 0 {
		return nil, fmt.Errorf("convert: the spec names no format: convert.formats takes %s", strings.Join(Formats(), ", "))
	}
	src, err := filepath.Abs(in.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("convert: %w", err)
	}
	out, err := filepath.Abs(in.OutDir)
	if err != nil {
		return nil, fmt.Errorf("convert: %w", err)
	}
	rep := &RunReport{Checkpoint: src}
	var checks []gate.Check
	if c := intact(src); c != nil {
		checks = append(checks, *c)
		if c.Verdict != gate.Pass {
			rep.Gate = gate.Of(checks...)
			return rep, nil
		}
	}
	for _, format := range in.Spec.Formats {
		o, check, err := in.one(ctx, rep, src, filepath.Join(out, format), format)
		if err != nil {
			return nil, err
		}
		if o != nil {
			rep.Outputs = append(rep.Outputs, *o)
		}
		checks = append(checks, check)
	}
	rep.Gate = gate.Of(checks...)
	return rep, nil
}

// intact verifies a portable checkpoint; a plain model directory has no manifest to verify.
func intact(src string) *gate.Check {
	if _, err := os.Stat(filepath.Join(src, "manifest.json")); err != nil {
		return nil
	}
	m, err := checkpoint.Verify(src)
	if err != nil {
		return &gate.Check{Name: "checkpoint", Verdict: gate.Fail, Detail: err.Error()}
	}
	return &gate.Check{Name: "checkpoint", Verdict: gate.Pass, Detail: fmt.Sprintf("%d files of step %d as they were written", len(m.Files), m.Step)}
}

// one converts to one format, or takes what is there, and checks it.
func (in Input) one(ctx context.Context, rep *RunReport, src, dst, format string) (*Output, gate.Check, error) {
	o := Options{Workers: in.Workers, Progress: in.Progress}
	if f, err := findFormat(format); err == nil && f.int8 { // the others have one rounding
		o.Rounding = Rounding(in.Spec.Rounding)
	}
	if format != BF16 { // bfloat16 keeps every layer
		o.Keep = in.Spec.Keep
	}
	record, reused, err := makeOrReuse(ctx, src, dst, format, o)
	if v, ok := errors.AsType[*Violation](err); ok {
		return nil, gate.Check{Name: format, Verdict: gate.Fail, Detail: v.Error()}, nil
	}
	if err != nil {
		return nil, gate.Check{}, err
	}
	rep.SourceDigest, rep.SourceBytes = record.SourceDigest, record.Totals.BytesIn
	in.Progress.Report(progress.Update{Stage: "convert", Note: format + ": reading it back"})
	check, err := CheckWith(ctx, src, dst, CheckOptions{Workers: in.Workers})
	if err != nil {
		return nil, gate.Check{}, err
	}
	t := record.Totals
	output := &Output{
		Format: format, Dir: dst, Bytes: t.BytesOut, Tensors: t.Outputs, Quantised: t.Quantised, Dropped: t.Dropped,
		WorstSQNR: t.WorstSQNR, WorstTensor: t.WorstTensor, Digest: record.Digest, Reused: reused,
		Record: filepath.Join(dst, recordName), Check: check,
	}
	if t.CompatibleSQNR > 0 {
		output.Rounding, output.CompatibleSQNR, output.ExactSQNR = record.Rounding, t.CompatibleSQNR, t.ExactSQNR
	}
	g := gate.Check{Name: format, Verdict: gate.Pass, Detail: check.String()}
	if !check.Passed() {
		g.Verdict = gate.Fail
	}
	return output, g, nil
}

// makeOrReuse converts unless dst holds this conversion, complete. What else it
// holds of ours is removed; what is not ours is refused.
func makeOrReuse(ctx context.Context, src, dst, format string, o Options) (*Report, bool, error) {
	entries, err := os.ReadDir(dst)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, fmt.Errorf("convert: %w", err)
	}
	if len(entries) > 0 {
		rep, err := Convert(ctx, src, dst, format, o)
		if err == nil {
			return rep, true, nil
		}
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if _, reading := ReadRecord(dst); errors.Is(reading, errForeign) {
			return nil, false, err
		}
		if err := discard(dst); err != nil {
			return nil, false, fmt.Errorf("convert: remove an output that is out of date: %w", err)
		}
	}
	rep, err := Convert(ctx, src, dst, format, o)
	return rep, false, err
}

// discard removes a directory so that it is never seen half gone.
func discard(dir string) error {
	trash, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+partialMark)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(trash, filepath.Base(dir))); err != nil {
		return errors.Join(err, os.Remove(trash))
	}
	return os.RemoveAll(trash)
}
