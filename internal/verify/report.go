package verify

import "tarbert/internal/gate"

// Report is the outcome of a verification. Divergences are in nats.
type Report struct {
	Gate   gate.Result `json:"gate"`
	Digest string      `json:"prompts_digest"`

	Reference Stack  `json:"reference"`
	Candidate Stack  `json:"candidate"`
	Floor     *Stack `json:"floor,omitempty"`

	Asked   int `json:"asked"`   // prompts
	Prompts int `json:"prompts"` // with a judged token
	Tokens  int `json:"tokens"`  // judged

	// KL is the mean over prompts of the mean clipped divergence per token;
	// FloorKL the floor's; Ratio the two's, absent when the floor is zero.
	KL      Interval  `json:"kl"`
	FloorKL *Interval `json:"floor_kl,omitempty"`
	Ratio   *Interval `json:"ratio,omitempty"`
	// Held is the ratio as it is held to its margin (ratioClips): of the bulk of
	// the tokens. A candidate like the floor has more than 1, one that is the margin
	// times the floor has the margin.
	Held *Interval `json:"ratio_held,omitempty"`
	// Typical is the ratio on a typical token: the geometric mean, over
	// prompts and tokens, of the token's divergence over the floor's on the same
	// token. A few heavy tokens, which routers make on both sides, widen Ratio's
	// interval and leave this one narrow: it is what sees a small fault.
	Typical *Interval `json:"typical,omitempty"`

	Quantiles      Quantiles  `json:"quantiles"` // of the tokens' divergence, not clipped
	FloorQuantiles *Quantiles `json:"floor_quantiles,omitempty"`
	// Tail is p99/p50 of the candidate over the floor's.
	Tail *Interval `json:"tail,omitempty"`

	Top1      Interval `json:"top1"` // share of tokens with the same likeliest token
	FloorTop1 float64  `json:"floor_top1,omitempty"`
	// Top1Clear counts only tokens where the reference's first is ahead of its
	// second by more than four times the mean |Δ log-probability|.
	Top1Clear float64 `json:"top1_clear"`

	DeltaNLL      Interval `json:"delta_nll"` // candidate − reference, of the actual tokens
	FloorDeltaNLL float64  `json:"floor_delta_nll,omitempty"`
	AbsDelta      float64  `json:"abs_delta"` // mean |Δ log-probability| of the actual tokens
	NLL           struct {
		Reference float64 `json:"reference"`
		Candidate float64 `json:"candidate"`
	} `json:"nll"`
	// Contrast is how much farther from its floor a typical token of the judged
	// part's last quarter is than one of its first; 0 = no floor.
	Contrast float64 `json:"contrast,omitempty"`
	// Slope of the candidate's centred log-probabilities on the reference's: 1 if logits are not scaled.
	Slope float64 `json:"slope"`
	// Seen is how much more tokens that the text already holds moved than
	// others, nats, beyond the slope and the floor's: penalties. Absent without a floor.
	Seen *Interval `json:"seen,omitempty"`

	Smallest  Smallest    `json:"smallest_fault"`
	Signature string      `json:"signature"`
	Causes    []Cause     `json:"causes,omitempty"` // likeliest first, when it failed
	First     *Divergence `json:"first_divergence,omitempty"`
	Worst     []Worst     `json:"worst"`

	// Contract, Sequential, Strata, Decode, Load and Reverse are there where
	// they were asked for; Strata always.
	Contract   *Contract   `json:"contract,omitempty"`
	Sequential *Sequential `json:"sequential,omitempty"`
	Strata     []Stratum   `json:"strata,omitempty"`
	Parts      []Part      `json:"parts,omitempty"`
	Reverse    *Reverse    `json:"reverse,omitempty"`

	// Floors are the sides against themselves, Scope what was not tested and
	// why, Cost what each part took.
	Floors []FloorMeasure `json:"floors,omitempty"`
	Scope  []string       `json:"scope,omitempty"`
	Cost   []Cost         `json:"cost,omitempty"`

	Failure  string  `json:"failure,omitempty"`
	Evidence string  `json:"evidence"`
	Seconds  float64 `json:"seconds"`
}

// Quantiles of a divergence.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}
