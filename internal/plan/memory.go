package plan

import (
	"fmt"
	"math"
	"strings"
)

// Layout is how a model and its batch are spread over devices. A zero width counts as 1.
type Layout struct {
	DP int `json:"dp"` // data: replicas of everything below
	TP int `json:"tp"` // tensor
	PP int `json:"pp"` // pipeline stages
	EP int `json:"ep"` // experts; taken from the data (and tensor) ways, no devices of its own
	CP int `json:"cp"` // context: a sequence cut in so many
	// ZeRO shards over DP×CP: 1 optimiser, 2 gradients too, 3 weights too.
	ZeRO int `json:"zero"`
	// MicroBatch is sequences a replica takes through the pipeline at once.
	MicroBatch int `json:"micro_batch"`
	// Interleave is virtual stages per device of the pipeline; 0 and 1 are none.
	Interleave int `json:"interleave,omitempty"`
	// Recompute is "none", "selective" (attention and MLP insides) or "full".
	Recompute string `json:"recompute"`
}

// Devices is DP·TP·PP·CP.
func (l Layout) Devices() int {
	l = l.filled()
	return l.DP * l.TP * l.PP * l.CP
}

func (l Layout) filled() Layout {
	for _, w := range []*int{&l.DP, &l.TP, &l.PP, &l.EP, &l.CP, &l.MicroBatch, &l.Interleave} {
		if *w == 0 {
			*w = 1
		}
	}
	if l.Recompute == "" {
		l.Recompute = "none"
	}
	return l
}

// String is "TP 8, PP 16, DP 64, ZeRO 1".
func (l Layout) String() string {
	l = l.filled()
	var parts []string
	for _, f := range []struct {
		name  string
		width int
	}{{"TP", l.TP}, {"PP", l.PP}, {"EP", l.EP}, {"CP", l.CP}, {"DP", l.DP}} {
		if f.width > 1 || f.name == "DP" {
			parts = append(parts, fmt.Sprintf("%s %d", f.name, f.width))
		}
	}
	return strings.Join(append(parts, fmt.Sprintf("ZeRO %d", l.ZeRO)), ", ")
}

func (l Layout) check(s ModelShape) error {
	for _, f := range []struct {
		name string
		v    int
	}{{"dp", l.DP}, {"tp", l.TP}, {"pp", l.PP}, {"ep", l.EP}, {"cp", l.CP}, {"micro_batch", l.MicroBatch}, {"interleave", l.Interleave}} {
		if f.v < 0 {
			return fmt.Errorf("layout: %s is %d: must not be negative", f.name, f.v)
		}
	}
	l = l.filled()
	switch {
	case l.ZeRO < 0 || l.ZeRO > 3:
		return fmt.Errorf("layout: zero is %d: must be 0 to 3", l.ZeRO)
	case l.Recompute != "none" && l.Recompute != "selective" && l.Recompute != "full":
		return fmt.Errorf("layout: recompute %q: must be none, selective or full", l.Recompute)
	case s.Heads%l.TP != 0:
		return fmt.Errorf("layout: %d attention heads over tp %d", s.Heads, l.TP)
	case l.PP > s.Layers:
		return fmt.Errorf("layout: %d layers over pp %d", s.Layers, l.PP)
	case l.EP > 1 && s.MoELayers == 0:
		return fmt.Errorf("layout: ep %d, but the model has no experts", l.EP)
	case l.EP > 1 && s.Experts%l.EP != 0:
		return fmt.Errorf("layout: %d experts over ep %d", s.Experts, l.EP)
	case l.DP*l.CP*l.TP%l.EP != 0:
		return fmt.Errorf("layout: ep %d does not divide dp·cp·tp = %d", l.EP, l.DP*l.CP*l.TP)
	}
	return nil
}

// Precision is bytes per parameter of what training holds.
type Precision struct {
	Weights   float64 `json:"weights"`
	Gradients float64 `json:"gradients"`
	// Optimizer is master weights and moments: 12 for AdamW in float32, 8 with
	// bfloat16 moments and a float32 master (DeepSeek-V3 §3.3.2).
	Optimizer float64 `json:"optimizer"`
	// Activation is bytes per stored activation.
	Activation float64 `json:"activation"`
}

// MixedAdamW is bfloat16 weights with float32 gradients, master and moments.
func MixedAdamW() Precision {
	return Precision{Weights: 2, Gradients: 4, Optimizer: 12, Activation: 2}
}

// Memory is what one device of the fullest pipeline stage holds.
type Memory struct {
	Weights     Bytes `json:"weights"`
	Gradients   Bytes `json:"gradients"`
	Optimizer   Bytes `json:"optimizer"`
	Activations Bytes `json:"activations"`
	KV          Bytes `json:"kv"`      // of a rollout that shares the device; 0 else
	Buffers     Bytes `json:"buffers"` // what collectives send from and receive into
	Reserve     Bytes `json:"reserve"` // the vendor's runtime and library, stated by the inventory
}

// Total is the sum.
func (m Memory) Total() Bytes {
	return m.Weights + m.Gradients + m.Optimizer + m.Activations + m.KV + m.Buffers + m.Reserve
}

// String lists the parts, the largest named.
func (m Memory) String() string {
	return fmt.Sprintf("%v: weights %v, gradients %v, optimiser %v, activations %v, KV %v, buffers %v, reserve %v",
		m.Total(), m.Weights, m.Gradients, m.Optimizer, m.Activations, m.KV, m.Buffers, m.Reserve)
}

// shard is one device's weights: those of experts and the others, with the
// number of devices each is replicated on.
type shard struct {
	dense, expert                 float64
	denseReplicas, expertReplicas float64
	perLayer                      float64 // largest layer's weights on this device
}

func shardOf(s ModelShape, l Layout) shard {
	attention, norms := s.attention()
	h := float64(s.Hidden)
	layers := math.Ceil(float64(s.Layers) / float64(l.PP))
	moe := min(layers, float64(s.MoELayers))
	expert := 3 * h * float64(s.ExpertIntermediate)
	common := float64(attention + norms + 2*int64(s.Hidden))
	shared := h*float64(s.Experts) + float64(s.SharedExperts)*expert
	embeddings := float64(s.Vocabulary) * h
	if l.PP == 1 && !s.Tied {
		embeddings *= 2
	}
	tp, ep := float64(l.TP), float64(l.EP)
	out := shard{
		dense:          (layers*common + (layers-moe)*float64(s.mlp()) + moe*shared + embeddings) / tp,
		denseReplicas:  float64(l.DP * l.CP),
		expertReplicas: float64(l.DP*l.CP*l.TP) / ep,
	}
	routed := float64(s.Experts) * expert / ep
	if l.EP == 1 { // the tensor ways cut the experts instead
		routed, out.expertReplicas = routed/tp, out.denseReplicas
	}
	out.expert = moe * routed
	out.perLayer = (common + float64(s.mlp())) / tp
	if moe > 0 {
		out.perLayer = max(out.perLayer, (common+shared)/tp+routed)
	}
	return out
}

// DeviceMemory is what training holds on the fullest device: parameters by
// layout and ZeRO stage, activations of the micro-batches in flight under 1F1B,
// the logits of the last stage, and the buffers of the collectives. Attention
// is taken as fused: it stores no square of the sequence.
func DeviceMemory(s ModelShape, l Layout, sequence int, p Precision) (Memory, error) {
	if err := s.Check(); err != nil {
		return Memory{}, err
	}
	if err := l.check(s); err != nil {
		return Memory{}, err
	}
	if sequence <= 0 {
		return Memory{}, fmt.Errorf("sequence length %d: must be positive", sequence)
	}
	l = l.filled()
	sh := shardOf(s, l)
	split := func(stage int, bytes float64) Bytes {
		if l.ZeRO < stage {
			return Bytes(bytes * (sh.dense + sh.expert))
		}
		return Bytes(bytes * (sh.dense/sh.denseReplicas + sh.expert/sh.expertReplicas))
	}
	m := Memory{Weights: split(3, p.Weights), Gradients: split(2, p.Gradients), Optimizer: split(1, p.Optimizer)}
	tokens := float64(l.MicroBatch) * float64(sequence) / float64(l.CP)
	layers := math.Ceil(float64(s.Layers) / float64(l.PP))
	perLayer := s.activations(l) * tokens * p.Activation / float64(l.TP)
	inside := ModelShape.activations(s, Layout{Recompute: "none"}) * tokens * p.Activation / float64(l.TP)
	inFlight := float64(l.PP)
	if l.Interleave > 1 { // the first device holds more of them (arXiv:2104.04473 §2.2)
		inFlight *= 1 + float64(l.PP-1)/float64(l.PP*l.Interleave)
	}
	m.Activations = Bytes(inFlight * layers * perLayer)
	if l.Recompute != "none" {
		m.Activations += Bytes(inside) // the one being run again
	}
	if l.PP == 1 { // else the last stage, which holds one micro-batch, has room
		m.Activations += Bytes(tokens * float64(s.Vocabulary) / float64(l.TP) * 4)
	}
	m.Buffers = Bytes(2 * tokens * float64(s.Hidden) * p.Activation)
	if l.EP > 1 { // sent and received, all chosen experts' copies
		m.Buffers += Bytes(2 * tokens * float64(s.Hidden) * float64(s.ExpertsPerToken) * p.Activation)
	}
	if l.ZeRO == 3 { // the layer at work and the next one, gathered
		m.Buffers += Bytes(2 * sh.perLayer * p.Weights)
	} else if l.ZeRO > 0 {
		m.Buffers += Bytes(sh.perLayer * p.Gradients) // a bucket of gradients
	}
	return m, nil
}

// activations is elements stored per token and layer before division by TP
// (with sequence parallelism): inputs and outputs of norms, queries, keys and
// values, the attention's output, and the MLP's inner products.
func (s ModelShape) activations(l Layout) float64 {
	h, heads := float64(s.Hidden), float64(s.Heads)
	if l.Recompute == "full" {
		return h
	}
	qkv := heads*float64(s.QK) + float64(s.KVHeads)*float64(s.QK+s.V)
	if s.KVLoraRank > 0 {
		qkv = heads*float64(2*s.QK+s.V) + float64(s.QLoraRank+s.KVLoraRank+s.QKRope)
	}
	matrices := float64(s.MLPMatrices)
	if matrices == 0 {
		matrices = 3
	}
	inner := matrices * float64(s.Intermediate)
	if s.MoELayers > 0 {
		routed := float64(s.ExpertsPerToken) * (3*float64(s.ExpertIntermediate) + h)
		inner = max(inner*float64(s.Layers-s.MoELayers)/float64(s.Layers), routed+3*float64(s.SharedExperts*s.ExpertIntermediate))
	}
	if l.Recompute == "selective" {
		return 2*h + heads*float64(s.V)
	}
	return 4*h + qkv + heads*float64(s.V) + inner
}

// KVBytes is the cache of one token in serving or rollout.
func KVBytes(s ModelShape, element float64) Bytes {
	if s.KVLoraRank > 0 {
		return Bytes(float64(s.Layers*(s.KVLoraRank+s.QKRope)) * element)
	}
	return Bytes(float64(s.Layers*s.KVHeads*(s.QK+s.V)) * element)
}

// fixes lists single changes of a layout after which it would fit.
func fixes(s ModelShape, l Layout, sequence int, p Precision, reserve, room Bytes) []string {
	l = l.filled()
	try := []struct {
		say  string
		edit func(*Layout)
	}{
		{fmt.Sprintf("raise TP to %d", 2*l.TP), func(l *Layout) { l.TP *= 2; l.DP = max(1, l.DP/2) }},
		{fmt.Sprintf("PP to %d", 2*l.PP), func(l *Layout) { l.PP *= 2; l.DP = max(1, l.DP/2) }},
		{fmt.Sprintf("EP to %d", 2*l.EP), func(l *Layout) { l.EP *= 2 }},
		{fmt.Sprintf("CP to %d", 2*l.CP), func(l *Layout) { l.CP *= 2; l.DP = max(1, l.DP/2) }},
		{"ZeRO to 1", func(l *Layout) { l.ZeRO = max(l.ZeRO, 1) }},
		{"ZeRO to 2", func(l *Layout) { l.ZeRO = max(l.ZeRO, 2) }},
		{"ZeRO to 3", func(l *Layout) { l.ZeRO = 3 }},
		{"recompute selectively", func(l *Layout) {
			if l.Recompute == "none" {
				l.Recompute = "selective"
			}
		}},
		{"recompute fully", func(l *Layout) { l.Recompute = "full" }},
	}
	var works []string
	for _, f := range try {
		changed := l
		f.edit(&changed)
		if changed == l {
			continue
		}
		if m, err := DeviceMemory(s, changed, sequence, p); err == nil && m.Total()+reserve <= room {
			works = append(works, f.say)
		}
	}
	return works
}
