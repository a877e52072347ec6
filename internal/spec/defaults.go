package spec

import (
	"path/filepath"
	"strings"
	"time"
)

// New is a release with the default of every field that has a fixed one. A
// default that follows from another field is set by Load after decoding.
func New() *Release {
	return &Release{
		Seed: 1,
		Label: Label{
			Accept:    "good",
			Agreement: Agreement{Alpha: 0.667, Confidence: 0.95, Resamples: 1000},
		},
		Qualify: Qualify{TwinSteps: 30, GradientTolerance: 1e-2},
		Train: Train{
			Trainer: TrainerReference, DType: "float32", Restarts: 3,
			Checkpoint: Checkpoint{Every: 50, Keep: 3},
			Supervise:  Supervise{HangFloor: Duration(10 * time.Second), FirstLimit: Duration(30 * time.Minute), UnitLimit: Duration(5 * time.Minute)},
			Fallback:   Budgets{CleanSteps: 1000, Window: Duration(72 * time.Hour)},
			SFT:        SFT{Optimizer: optimizer(0.95)},
			GRPO: GRPO{
				Reward: "answer", Temperature: 1, ClipLow: 0.2, ClipHigh: 0.28, Objective: "grpo",
				Optimizer: optimizer(0.99),
			},
			Torchrun: Torchrun{Python: "python3", NProc: 1, Device: "auto", Parallel: "ddp", Precision: "float32", MicroTokens: 4096},
		},
		Verify:  Verify{Count: 64, Top: 20, Alpha: 0.01, Beta: 0.01, Margin: Margin{Clip: 0.1}},
		Compare: Compare{Reward: "answer"},
		Serve:   Serve{Addr: "127.0.0.1:8000"},
	}
}

func optimizer(beta2 float64) Optimizer {
	return Optimizer{Floor: 1, Betas: [2]float64{0.9, beta2}, Epsilon: 1e-8, Clip: 1}
}

// derive sets the defaults that follow from other fields.
func (s *Release) derive() {
	if n := len(s.Convert.Formats); s.Verify.Format == "" && n > 0 {
		s.Verify.Format = s.Convert.Formats[n-1]
	}
	if s.Verify.Prompts == "" {
		s.Verify.Prompts = s.Compare.Problems
	}
	if s.Compare.MaxTokens == 0 {
		s.Compare.MaxTokens = s.Train.GRPO.MaxTokens
	}
	if s.Serve.Name == "" {
		s.Serve.Name = s.Name
	}
}

// resolvePaths makes the file's paths absolute, from the file's folder. It lists
// the fields of the files that commands name: of those, nothing else tells.
func (s *Release) resolvePaths() (files []string) {
	for _, p := range []*string{
		&s.Label.Annotations, &s.Train.Model, &s.Train.GRPO.Problems, &s.Verify.Prompts, &s.Compare.Problems,
	} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(s.Dir, filepath.FromSlash(*p))
		}
	}
	// An interpreter without a slash is looked for in PATH.
	if p := &s.Train.Torchrun.Python; strings.ContainsRune(*p, '/') && !filepath.IsAbs(*p) {
		*p = filepath.Join(s.Dir, filepath.FromSlash(*p))
	}
	return s.resolveCommands()
}
