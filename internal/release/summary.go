package release

import (
	"os"
	"path/filepath"

	"tarbert/internal/gate"
	"tarbert/internal/train"
)

// Summary is the release in the numbers that people ask for first.
type Summary struct {
	Quality     []Quality    `json:"quality"` // in the order of training
	Alpha       float64      `json:"alpha"`
	AlphaLower  float64      `json:"alpha_lower"`
	TrainTokens int64        `json:"train_tokens"`
	TrainRate   float64      `json:"train_tokens_per_second"`
	FloorKL     float64      `json:"floor_kl"` // nats per token, clipped mean
	CandidateKL float64      `json:"candidate_kl"`
	Ratio       float64      `json:"ratio"` // of the two; 0 where the floor is zero
	Verify      gate.Verdict `json:"verify"`
	BytesBefore int64        `json:"bytes_before"` // weights as trained
	BytesAfter  int64        `json:"bytes_after"`  // weights as released
	ServeRate   float64      `json:"serve_tokens_per_second"`
	Model       string       `json:"model"` // the released directory
	// Curves are the training series worth a look: loss, reward, share that thinks.
	Curves   []train.Series `json:"curves"`
	SFTSteps int            `json:"sft_steps"`
}

// Quality is one model's held-out score.
type Quality struct {
	Name    string  `json:"name"`
	PassAt1 float64 `json:"pass_at_1"` // one sample at T = 1
	Greedy  float64 `json:"greedy"`
	Thinks  float64 `json:"thinks"` // share of the samples that think first
}

// summary is nil until the comparison is there.
func (r *run) summary() *Summary {
	if r.compare == nil || r.verify == nil || r.convert == nil || r.train == nil || r.label == nil {
		return nil
	}
	s := &Summary{
		SFTSteps: r.spec.Train.SFT.Steps, TrainTokens: r.train.Tokens, TrainRate: r.train.TokensPerSecond,
		CandidateKL: r.verify.KL.Value, Verify: r.verify.Gate.Verdict,
	}
	if r.label.Alpha != nil && r.label.Lower != nil {
		s.Alpha, s.AlphaLower = *r.label.Alpha, *r.label.Lower
	}
	if r.verify.FloorKL != nil {
		s.FloorKL = r.verify.FloorKL.Value
	}
	if r.verify.Ratio != nil {
		s.Ratio = r.verify.Ratio.Value
	}
	for i := len(r.compare.Candidates) - 1; i >= 0; i-- {
		c := r.compare.Candidates[i]
		q := Quality{Name: c.Name}
		if c.Name == nameReleased {
			q.Name = "released (" + r.format() + ")"
		}
		if c.Pass1 != nil {
			q.PassAt1 = c.Pass1.Value
		}
		if c.Greedy != nil {
			q.Greedy = c.Greedy.Value
		}
		if c.Thinks != nil {
			q.Thinks = c.Thinks.Value
		}
		s.Quality = append(s.Quality, q)
	}
	for _, name := range []string{"loss", "reward", "thinks"} {
		for _, c := range r.train.Series {
			if c.Name == name {
				s.Curves = append(s.Curves, c)
			}
		}
	}
	s.Model, _ = r.candidate()
	s.BytesBefore, s.BytesAfter = weightBytes(r.train.Final), weightBytes(s.Model)
	if r.serve != nil {
		s.ServeRate = r.serve.TokensPerSecond
	}
	return s
}

// weightBytes sums the model's weight files; the optimizer's state is not weights.
func weightBytes(dir string) int64 {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	var n int64
	for _, p := range paths {
		if filepath.Base(p) == "optimizer.safetensors" {
			continue
		}
		if info, err := os.Stat(p); err == nil {
			n += info.Size()
		}
	}
	return n
}
