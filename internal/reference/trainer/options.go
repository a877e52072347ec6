package trainer

import (
	"fmt"

	"tarbert/internal/reference"
	"tarbert/internal/spec"
)

// Options are settings that only this trainer has: the recipe's object
// "reference". The zero value switches everything off.
type Options struct {
	SFT  SFTOptions  `json:"sft"`
	GRPO GRPOOptions `json:"grpo"`
}

// SFTOptions are those of supervised fine-tuning.
type SFTOptions struct {
	// ZLoss times the mean over targets of the squared log-sum-exp of the logits
	// is added to the loss (PaLM, arXiv:2204.02311 §5, has 1e-4); 0 = off.
	ZLoss float64 `json:"z_loss"`
	// RouterZLoss times the mean over tokens of the squared log-sum-exp of the
	// router's logits, summed over layers, is added (ST-MoE, arXiv:2202.08906 §3,
	// has 1e-3); 0 = off.
	RouterZLoss float64 `json:"router_z_loss"`
}

// GRPOOptions are those of reinforcement learning, whichever its objective.
type GRPOOptions struct {
	ZLoss       float64 `json:"z_loss"`
	RouterZLoss float64 `json:"router_z_loss"`
	// Rollout is the profile that completions are sampled in: f32 (default) shares
	// the trained weights, bf16 and w8a8 sample from a rounded copy made every
	// step, as an inference engine on another chip would.
	Rollout reference.Precision `json:"rollout_precision"`
	// Replay trains with the experts that the rollout chose (R3, arXiv:2510.11370).
	Replay     bool       `json:"routing_replay"`
	Correction Correction `json:"correction"`
}

// Correction weighs a rollout's tokens by how far the policy that drew them, μ,
// is from the trainer's before the update, π. With either part on, the clipped
// ratio is taken to π instead of μ.
//
// A weight is min(ratio, Truncate), or 1 without Truncate, where the ratio lies
// in [MaskLow, MaskHigh], else 0. So truncated importance sampling is Truncate
// alone, masked importance sampling both with Truncate = MaskHigh, and
// rejection the mask alone. Normalisers do not depend on the weights.
type Correction struct {
	Truncate      float64 `json:"truncate"` // C, usually 2 to 10; 0 = off
	TruncateLevel Level   `json:"truncate_level"`
	MaskLow       float64 `json:"mask_low"` // usually 1/C
	MaskHigh      float64 `json:"mask_high"`
	MaskLevel     Level   `json:"mask_level"` // MaskHigh 0 = off
}

// Level is what a ratio π/μ is taken over.
type Level string

// The levels. The empty Level is Token.
const (
	Token     Level = "token"
	Sequence  Level = "sequence"  // the product of the tokens' ratios
	Geometric Level = "geometric" // their geometric mean
)

func (c Correction) on() bool { return c.Truncate > 0 || c.MaskHigh > 0 }

// check refuses what cannot be meant.
func (o Options) check(r spec.Recipe) error {
	g := o.GRPO
	for name, v := range map[string]float64{"sft.z_loss": o.SFT.ZLoss, "sft.router_z_loss": o.SFT.RouterZLoss,
		"grpo.z_loss": g.ZLoss, "grpo.router_z_loss": g.RouterZLoss} {
		if !(v >= 0) {
			return fmt.Errorf("reference.%s is %g; want 0 or more", name, v)
		}
	}
	switch g.Rollout {
	case "", reference.F32, reference.BF16, reference.W8A8:
	default:
		return fmt.Errorf("reference.grpo.rollout_precision is %q; want f32, bf16 or w8a8", g.Rollout)
	}
	return g.Correction.check(r.Train.GRPO.Objective)
}

func (c Correction) check(objective string) error {
	const name = "reference.grpo.correction"
	switch {
	case !(c.Truncate >= 0):
		return fmt.Errorf("%s.truncate is %g; want 0 (off) or more", name, c.Truncate)
	case !(c.MaskLow >= 0 && c.MaskHigh >= c.MaskLow):
		return fmt.Errorf("%s: mask_low %g, mask_high %g; want 0 or more and no less than mask_low", name, c.MaskLow, c.MaskHigh)
	}
	for _, x := range []struct {
		field string
		level Level
		on    bool
	}{{"truncate_level", c.TruncateLevel, c.Truncate > 0}, {"mask_level", c.MaskLevel, c.MaskHigh > 0}} {
		switch x.level {
		case "", Token, Sequence, Geometric:
		default:
			return fmt.Errorf("%s.%s is %q; want token, sequence or geometric", name, x.field, x.level)
		}
		if x.on && objective == "gspo" && (x.level == "" || x.level == Token) {
			return fmt.Errorf("%s.%s is token: gspo has one ratio per sequence; want sequence or geometric", name, x.field)
		}
	}
	return nil
}
