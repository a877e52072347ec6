package plan

import (
	"fmt"
	"math"
)

// TokenWork is the work that one trained token costs, by part.
type TokenWork struct {
	Matrices  FLOPs `json:"matrices"`  // 6 for each weight that multiplies the token, head included
	Attention FLOPs `json:"attention"` // scores and values
	MTP       FLOPs `json:"mtp"`       // multi-token-prediction layers: one layer and the head each
	Recompute FLOPs `json:"recompute"` // the layers' forward pass once more; hardware FLOPs only
}

// Total is the sum of the parts.
func (w TokenWork) Total() FLOPs { return w.Matrices + w.Attention + w.MTP + w.Recompute }

// WorkPerToken counts the work of one token in training, forward and backward,
// in sequences of the given length:
//
//	6·N_active + 6·L·a·n_heads·(d_qk + d_v)     a = mean tokens attended to
//
// a is the sequence length with full attention and half of it with causal; a
// window w makes it min(s, w) and w − w²/2s. The convention's Count "hardware"
// adds the forward pass of all layers, not of the head, as Megatron does under
// full recomputation. mtp counts the multi-token-prediction layers too.
func WorkPerToken(s ModelShape, sequence float64, c Convention, mtp bool) (TokenWork, error) {
	if !(sequence > 0) || math.IsInf(sequence, 0) {
		return TokenWork{}, fmt.Errorf("sequence length %g: must be positive", sequence)
	}
	attended, err := attendedTokens(sequence, float64(s.Window), c.Attention)
	if err != nil {
		return TokenWork{}, err
	}
	p := Params(s)
	perLayer := FLOPs(6 * attended * float64(s.Heads) * float64(s.QK+s.V))
	w := TokenWork{Matrices: FLOPs(6 * float64(p.Active)), Attention: FLOPs(s.Layers) * perLayer}
	if mtp && s.MTPLayers > 0 {
		each := FLOPs(6*float64(s.mtpActive())) + perLayer
		w.MTP = FLOPs(s.MTPLayers) * each
	}
	switch c.Count {
	case "model":
	case "hardware":
		head := FLOPs(6 * float64(p.Embedding))
		w.Recompute = (w.Matrices - head + w.Attention) / 3
	default:
		return TokenWork{}, fmt.Errorf("convention: count %q: must be model or hardware", c.Count)
	}
	return w, nil
}

func attendedTokens(s, window float64, attention string) (float64, error) {
	inside := s
	if window > 0 {
		inside = min(s, window)
	}
	switch attention {
	case "full":
		return inside, nil
	case "causal":
		return inside - inside*inside/(2*s), nil
	}
	return 0, fmt.Errorf("convention: attention %q: must be causal or full", attention)
}

// mtpActive is the weights of one multi-token-prediction layer that multiply a
// token, with the head that it shares.
func (s ModelShape) mtpActive() int64 {
	h := int64(s.Hidden)
	attention, _ := s.attention()
	block := s.mlp()
	if s.MoELayers > 0 {
		expert := 3 * h * int64(s.ExpertIntermediate)
		block = h*int64(s.Experts) + int64(s.SharedExperts+s.ExpertsPerToken)*expert
	}
	return attention + block + 2*h*h + int64(s.Vocabulary)*h
}

// Utilization is the share of the devices' peak that a token rate is, in the
// work's convention: MFU for model FLOPs, HFU for hardware FLOPs.
func Utilization(perToken FLOPs, tokensPerSecond float64, devices int, peak Rate) float64 {
	return float64(perToken) * tokensPerSecond / (float64(devices) * float64(peak))
}

// TrainingDeviceHours is what so many tokens take at a utilization. It does not
// depend on the number of devices until the utilization does.
func TrainingDeviceHours(tokens float64, perToken FLOPs, peak Rate, utilization float64) DeviceHours {
	return DeviceHours(tokens * float64(perToken) / (float64(peak) * utilization) / 3600)
}

// Check says which sizes contradict each other or are missing.
func (s ModelShape) Check() error {
	for _, f := range []struct {
		name string
		v    int
	}{
		{"num_hidden_layers", s.Layers}, {"hidden_size", s.Hidden}, {"vocab_size", s.Vocabulary},
		{"num_attention_heads", s.Heads}, {"qk_head_dim", s.QK}, {"v_head_dim", s.V},
	} {
		if f.v <= 0 {
			return fmt.Errorf("model: %s is %d: must be positive", f.name, f.v)
		}
	}
	for _, v := range []int{s.Layers, s.Hidden, s.Vocabulary, s.Heads, s.KVHeads, s.QK, s.V, s.Intermediate, s.ExpertIntermediate, s.Experts, s.QLoraRank, s.KVLoraRank, s.MTPLayers, s.Window, s.SharedExperts} {
		if v > 1<<22 {
			return fmt.Errorf("model: %d is no size that a model has", v)
		}
	}
	switch {
	case s.KVLoraRank == 0 && s.KVHeads <= 0:
		return fmt.Errorf("model: num_key_value_heads is %d: must be positive without latent attention", s.KVHeads)
	case s.KVLoraRank == 0 && s.Heads%s.KVHeads != 0:
		return fmt.Errorf("model: num_attention_heads %d is not a multiple of num_key_value_heads %d", s.Heads, s.KVHeads)
	case s.KVLoraRank > 0 && s.QKRope >= s.QK:
		return fmt.Errorf("model: qk_rope_head_dim %d leaves nothing of qk_head_dim %d", s.QKRope, s.QK)
	case s.MoELayers < 0 || s.MoELayers > s.Layers:
		return fmt.Errorf("model: moe_layers %d of %d layers", s.MoELayers, s.Layers)
	case s.MoELayers > 0 && (s.Experts <= 0 || s.ExpertsPerToken <= 0 || s.ExpertIntermediate <= 0):
		return fmt.Errorf("model: moe_layers is %d, but experts %d, num_experts_per_tok %d, moe_intermediate_size %d", s.MoELayers, s.Experts, s.ExpertsPerToken, s.ExpertIntermediate)
	case s.ExpertsPerToken > s.Experts:
		return fmt.Errorf("model: num_experts_per_tok %d is more than n_routed_experts %d", s.ExpertsPerToken, s.Experts)
	case s.MoELayers < s.Layers && s.Intermediate <= 0:
		return fmt.Errorf("model: intermediate_size is %d, but %d layers are dense", s.Intermediate, s.Layers-s.MoELayers)
	case s.MLPMatrices != 0 && s.MLPMatrices != 2 && s.MLPMatrices != 3:
		return fmt.Errorf("model: mlp_matrices is %d: must be 2 or 3", s.MLPMatrices)
	case s.Window < 0 || s.MTPLayers < 0:
		return fmt.Errorf("model: sliding_window %d, num_nextn_predict_layers %d: must not be negative", s.Window, s.MTPLayers)
	}
	return nil
}
