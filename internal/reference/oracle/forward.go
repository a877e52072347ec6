package oracle

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Logits are the logits after each token, [len(tokens)][vocabulary].
func (m *Model) Logits(tokens []int) ([][]float64, error) {
	p, err := m.Forward(tokens)
	return p.Logits, err
}

// Pass is a forward pass over one sequence.
type Pass struct {
	Logits [][]float64 // after each token
	// Margin is, per position, by how much the last chosen expert or group beat
	// the best rejected one where that was closest, in any layer at this or an
	// earlier position. Less precise arithmetic may choose otherwise where it is
	// within that arithmetic's error; +Inf without routing.
	Margin []float64

	chosen []int     // experts, by sparse layer and position
	router []float64 // per position, the squared log-sum-exp of the router's logits, summed over sparse layers
}

// Forward computes a sequence and says how firmly it was routed.
func (m *Model) Forward(tokens []int) (Pass, error) { return m.forward(tokens, nil) }

// forward is Forward with the experts given, if routing is not nil.
func (m *Model) forward(tokens []int, routing [][]int32) (Pass, error) {
	embed := m.w["model.embed_tokens.weight"].Data
	x := make([][]float64, len(tokens))
	pass := Pass{Margin: make([]float64, len(tokens)), router: make([]float64, len(tokens))}
	for t, id := range tokens {
		if id < 0 || id >= m.c.Vocab {
			return Pass{}, fmt.Errorf("token %d at position %d is outside the vocabulary of %d", id, t, m.c.Vocab)
		}
		x[t] = slices.Clone(embed[id*m.c.Hidden:][:m.c.Hidden])
		pass.Margin[t] = math.Inf(1)
	}
	for l := range m.c.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		h := make([][]float64, len(x))
		for t := range x {
			h[t] = m.norm(p+"input_layernorm", x[t], m.c.Eps)
		}
		for t, a := range m.attention(p+"self_attn.", h) {
			add(x[t], a, 1)
		}
		for t := range x {
			h := m.norm(p+"post_attention_layernorm", x[t], m.c.Eps)
			if m.c.sparse(l) {
				var given []int32
				if k := m.c.PerToken; routing != nil && len(routing[0]) >= (t+1)*k {
					given = routing[0][t*k:][:k]
				}
				m.experts(p+"mlp.", x[t], h, &pass, t, given)
			} else {
				add(x[t], m.mlp(p+"mlp.", h), 1)
			}
		}
		if m.c.sparse(l) && routing != nil {
			routing = routing[1:]
		}
	}
	for t := 1; t < len(x); t++ {
		pass.Margin[t] = min(pass.Margin[t], pass.Margin[t-1])
	}
	head := "lm_head"
	if m.c.Tied {
		head = "model.embed_tokens"
	}
	for t := range x {
		pass.Logits = append(pass.Logits, m.linear(head, m.norm("model.norm", x[t], m.c.Eps)))
	}
	return pass, nil
}

// experts adds a mixture's output for one position to x.
func (m *Model) experts(p string, x, h []float64, pass *Pass, t int, given []int32) {
	lse := logSumExp(m.linear(p+"gate", h))
	pass.router[t] += lse * lse
	chosen, weights, margin := m.route(p+"gate", h, given)
	pass.chosen = append(pass.chosen, chosen...)
	pass.Margin[t] = min(pass.Margin[t], margin)
	for i, e := range chosen {
		add(x, m.mlp(fmt.Sprintf("%sexperts.%d.", p, e), h), weights[i])
	}
	if m.c.ModelType == deepseek && m.c.Shared > 0 {
		add(x, m.mlp(p+"shared_experts.", h), 1)
	}
}

func add(dst, x []float64, scale float64) {
	for i, v := range x {
		dst[i] += scale * v
	}
}

// attention is causal attention over all positions of one sequence.
func (m *Model) attention(p string, h [][]float64) [][]float64 {
	project := m.groupedHeads
	if m.c.ModelType == deepseek {
		project = m.latentHeads
	}
	q, k, v := project(p, h)
	out := make([][]float64, len(h))
	for t := range h {
		var joined []float64
		for head := range m.c.Heads {
			shared := head * len(k[t]) / m.c.Heads // the key head that this query head reads
			joined = append(joined, m.attend(q[t][head], k[:t+1], v[:t+1], shared)...)
		}
		out[t] = m.linear(p+"o_proj", joined)
	}
	return out
}

// attend mixes the values of one head by softmax(scale · q·k).
func (m *Model) attend(q []float64, k, v [][][]float64, head int) []float64 {
	scores := make([]float64, len(k))
	for s := range k {
		for i, x := range q {
			scores[s] += x * k[s][head][i]
		}
		scores[s] *= m.softmax
	}
	softmax(scores)
	out := make([]float64, len(v[0][head]))
	for s, a := range scores {
		add(out, v[s][head], a)
	}
	return out
}

func softmax(x []float64) {
	top, sum := slices.Max(x), 0.0
	for i, v := range x {
		x[i] = math.Exp(v - top)
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
}

// groupedHeads are Qwen3's queries, keys and values, [position][head][dim]:
// RMSNorm over each head's query and key, then rotation of the two halves.
func (m *Model) groupedHeads(p string, h [][]float64) (q, k, v [][][]float64) {
	for t, x := range h {
		qt := heads(m.linear(p+"q_proj", x), m.c.HeadDim)
		kt := heads(m.linear(p+"k_proj", x), m.c.HeadDim)
		for i := range qt {
			qt[i] = m.norm(p+"q_norm", qt[i], m.c.Eps)
			m.rotate(qt[i], t, false)
		}
		for i := range kt {
			kt[i] = m.norm(p+"k_norm", kt[i], m.c.Eps)
			m.rotate(kt[i], t, false)
		}
		q, k, v = append(q, qt), append(k, kt), append(v, heads(m.linear(p+"v_proj", x), m.c.HeadDim))
	}
	return q, k, v
}

// latentNormEps is what transformers uses for the norms on the latents
// whatever rms_norm_eps says. Published models have the same value there.
const latentNormEps = 1e-6

// latentHeads are DeepSeek's: keys and values unfolded from the normalised
// latent, and one rotated key part that all heads share.
func (m *Model) latentHeads(p string, h [][]float64) (q, k, v [][][]float64) {
	interleave := m.c.Interleave == nil || *m.c.Interleave
	for t, x := range h {
		var flat []float64
		if m.c.QRank == nil {
			flat = m.linear(p+"q_proj", x)
		} else {
			flat = m.linear(p+"q_b_proj", m.norm(p+"q_a_layernorm", m.linear(p+"q_a_proj", x), latentNormEps))
		}
		qt := heads(flat, m.c.HeadDim)
		for i := range qt {
			m.rotate(qt[i][m.c.Nope:], t, interleave)
		}
		latent := m.linear(p+"kv_a_proj_with_mqa", x)
		turned := latent[m.c.KVRank:]
		m.rotate(turned, t, interleave)
		unfolded := heads(m.linear(p+"kv_b_proj", m.norm(p+"kv_a_layernorm", latent[:m.c.KVRank], latentNormEps)), m.c.Nope+m.c.Value)
		var kt, vt [][]float64
		for _, u := range unfolded {
			kt = append(kt, slices.Concat(u[:m.c.Nope], turned))
			vt = append(vt, u[m.c.Nope:])
		}
		q, k, v = append(q, qt), append(k, kt), append(v, vt)
	}
	return q, k, v
}

// heads cuts x into pieces of size n.
func heads(x []float64, n int) [][]float64 {
	return slices.Collect(slices.Chunk(x, n))
}

// rotate turns x by its position: pairs (0,1), (2,3), … when interleaved,
// pairs (i, i+d/2) otherwise.
func (m *Model) rotate(x []float64, position int, interleaved bool) {
	half := len(x) / 2
	for i := range half {
		a, b := i, i+half
		if interleaved {
			a, b = 2*i, 2*i+1
		}
		sin, cos := math.Sincos(float64(position) * m.inv[i])
		sin, cos = sin*m.turn, cos*m.turn
		x[a], x[b] = x[a]*cos-x[b]*sin, x[b]*cos+x[a]*sin
	}
}

// route chooses experts for one position, gives their weights and the margin
// of the choice. Given experts are taken instead of the best.
func (m *Model) route(p string, h []float64, given []int32) (experts []int, weights []float64, margin float64) {
	scores := m.linear(p, h)
	margin = math.Inf(1)
	choice := scores
	if m.c.ModelType == deepseek {
		bias := m.w[p+".e_score_correction_bias"].Data
		choice = make([]float64, len(scores))
		for i, s := range scores {
			scores[i] = 1 / (1 + math.Exp(-s))
			choice[i] = scores[i] + bias[i]
		}
		margin = m.dropGroups(choice)
	} else {
		softmax(scores)
	}
	margin = min(margin, lead(choice, m.c.PerToken))
	experts = largest(choice, m.c.PerToken)
	if given != nil {
		experts, margin = nil, math.Inf(1)
		for _, e := range given {
			experts = append(experts, int(e))
		}
	}
	sum := 0.0
	for _, e := range experts {
		weights = append(weights, scores[e])
		sum += scores[e]
	}
	for i := range weights {
		if m.c.NormTop {
			weights[i] /= sum
		}
		if m.c.ModelType == deepseek {
			weights[i] *= m.c.Scaling
		}
	}
	return experts, weights, margin
}

// lead is by how much the n-th largest value exceeds the next.
func lead(x []float64, n int) float64 {
	if n >= len(x) {
		return math.Inf(1)
	}
	order := largest(x, n+1)
	return x[order[n-1]] - x[order[n]]
}

// dropGroups leaves the experts of the topk_group best groups in the choice; a
// group is worth its two best experts. It returns the margin of the choice.
func (m *Model) dropGroups(choice []float64) float64 {
	size := len(choice) / m.c.Groups
	worth := make([]float64, m.c.Groups)
	for g := range worth {
		group := choice[g*size:][:size]
		for _, e := range largest(group, min(2, size)) {
			worth[g] += group[e]
		}
	}
	kept := largest(worth, m.c.TopGroups)
	for i := range choice {
		if !slices.Contains(kept, i/size) {
			choice[i] = math.Inf(-1)
		}
	}
	return lead(worth, m.c.TopGroups)
}

// largest are the indices of the n largest values, largest first, the lower
// index first among equals.
func largest(x []float64, n int) []int {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case x[a] > x[b]:
			return -1
		case x[a] < x[b]:
			return 1
		}
		return 0
	})
	return order[:n]
}

// Names lists the tensors that the forward pass reads and a gradient can
// reach, sorted: all but the routing bias, which only chooses.
func (m *Model) Names() []string {
	var names []string
	for name := range m.c.shapes() {
		if !strings.HasSuffix(name, "e_score_correction_bias") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
