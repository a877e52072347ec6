package verify

import "math"

// numbers are per-prompt means, and the tokens, in canonical order.
type numbers struct {
	prompts           []Prompt
	kl, floor, logs   []float64 // logs: of the paired token ratios
	above, below      []float64 // candidate and floor as the ratio counts them
	top1, dNLL        []float64
	floorTop1, floorD []float64
	kls, floorKLs     tokens
	count             int
}

func reduce(ev *Evidence) numbers {
	var n numbers
	n.prompts, _ = ev.canonical()
	clip := ev.Spec.Margin.Clip
	var kls, floors [][]float64
	for _, p := range n.prompts {
		n.count += len(p.LogProb)
		n.kl = append(n.kl, mean(clipped(p.Candidate.KL, clip)))
		n.top1 = append(n.top1, agreement(p.Candidate.Same))
		n.dNLL = append(n.dNLL, mean(p.LogProb)-mean(p.Candidate.LogProb))
		kls = append(kls, p.Candidate.KL)
		if p.Floor != nil {
			n.floor = append(n.floor, mean(clipped(p.Floor.KL, clip)))
			n.floorTop1 = append(n.floorTop1, agreement(p.Floor.Same))
			n.floorD = append(n.floorD, mean(p.LogProb)-mean(p.Floor.LogProb))
			n.logs = append(n.logs, meanLogRatio(p.Candidate.KL, p.Floor.KL))
			floors = append(floors, p.Floor.KL)
		}
	}
	n.kls, n.floorKLs = newTokens(kls), newTokens(floors)
	if len(floors) == 0 {
		return n
	}
	below, above := ratioClips(n.floorKLs.value, ev.Spec.Margin)
	for i, floor := range floors {
		n.above, n.below = append(n.above, mean(clipped(kls[i], above))), append(n.below, mean(clipped(floor, below)))
	}
	return n
}

// meanLogRatio is the mean log of a's tokens over b's.
func meanLogRatio(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += math.Log((a[i] + quantileResolution) / (b[i] + quantileResolution))
	}
	return s / float64(len(a))
}

func agreement(marks string) float64 {
	hits := 0
	for i := range len(marks) {
		if marks[i] == '1' {
			hits++
		}
	}
	return float64(hits) / float64(len(marks))
}

// estimate fills in the statistics with their intervals.
func estimate(r *Report, ev *Evidence, n numbers, level float64) {
	b := newBootstrap(len(n.prompts), ev.Seed, level)
	r.KL, r.DeltaNLL, r.Top1 = b.mean(n.kl), b.mean(n.dNLL), b.mean(n.top1)
	r.Top1.Upper = min(r.Top1.Upper, 1)
	// Prompts that all agree leave resampling without spread; counting tokens has some.
	r.Top1.Lower = min(r.Top1.Lower, wilson(r.Top1.Value*float64(n.count), float64(n.count), level))
	r.Quantiles = quantiles(n.kls)
	if ev.Floor != nil {
		floor := b.mean(n.floor)
		r.FloorKL = &floor
		q := quantiles(n.floorKLs)
		r.FloorQuantiles = &q
		r.FloorTop1, r.FloorDeltaNLL = mean(n.floorTop1), mean(n.floorD)
		least := floorResolution * float64(len(n.floor))
		ratio, ok := b.ratio(n.kl, n.floor, least)
		if held, able := b.ratio(n.above, n.below, 0); ok && able {
			r.Ratio, r.Held = &ratio, &held
			logs := b.mean(n.logs)
			r.Typical = &Interval{math.Exp(logs.Value), math.Exp(logs.Lower), math.Exp(logs.Upper)}
			tail := b.percentile(tailRatio(n, nil), func(w []int) float64 { return tailRatio(n, w) })
			r.Tail, r.Contrast = &tail, lateOverEarly(n)
		}
	}
	var delta, slopeXY, slopeXX float64
	for _, p := range n.prompts {
		for i := range p.LogProb {
			delta += math.Abs(p.Candidate.LogProb[i] - p.LogProb[i])
		}
		r.NLL.Reference -= mean(p.LogProb) / float64(len(n.prompts))
		r.NLL.Candidate -= mean(p.Candidate.LogProb) / float64(len(n.prompts))
		slopeXY, slopeXX = slopeXY+p.Candidate.SlopeXY, slopeXX+p.Candidate.SlopeXX
	}
	r.AbsDelta = delta / float64(n.count)
	r.Slope = 1
	if slopeXX > 0 {
		r.Slope = slopeXY / slopeXX
	}
	if ev.Floor != nil {
		r.Seen = seenInterval(n.prompts, r.Slope, b)
	}
	r.Top1Clear = clearAgreement(n, 4*r.AbsDelta)
}

// seenInterval is the mean over prompts of the shift of seen tokens that the
// slope does not explain, minus the floor's.
func seenInterval(prompts []Prompt, slope float64, b *bootstrap) *Interval {
	x := make([]float64, len(prompts))
	for i, p := range prompts {
		if p.Candidate.SeenN > 0 {
			x[i] = (p.Candidate.Seen - (slope-1)*p.Candidate.SeenX) / float64(p.Candidate.SeenN)
		}
		if p.Floor.SeenN > 0 {
			x[i] -= p.Floor.Seen / float64(p.Floor.SeenN)
		}
	}
	iv := b.mean(x)
	return &iv
}

func quantiles(t tokens) Quantiles {
	return Quantiles{t.quantile(0.5, nil), t.quantile(0.9, nil), t.quantile(0.99, nil), t.value[len(t.value)-1]}
}

// tailRatio is p99/p50 of the candidate over the floor's.
func tailRatio(n numbers, w []int) float64 {
	shape := func(t tokens) float64 {
		return (t.quantile(0.99, w) + quantileResolution) / (t.quantile(0.5, w) + quantileResolution)
	}
	return shape(n.kls) / shape(n.floorKLs)
}

// clearAgreement is the agreement where the reference's choice is not a near tie.
func clearAgreement(n numbers, gap float64) float64 {
	hits, all := 0, 0
	for _, p := range n.prompts {
		for i, g := range p.Gap {
			if g > gap {
				all++
				if p.Candidate.Same[i] == '1' {
					hits++
				}
			}
		}
	}
	if all == 0 {
		return 1
	}
	return float64(hits) / float64(all)
}
