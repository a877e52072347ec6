package progress

// Update is one sign of life from a stage.
type Update struct {
	Stage string `json:"stage"`
	// Done and Total are in the stage's own unit (steps, bytes, prompts);
	// Total 0 means not known.
	Done  float64 `json:"done"`
	Total float64 `json:"total"`
	// Unit names it: "steps", "MB", "prompts".
	Unit string `json:"unit,omitempty"`
	// Note is a short present-tense line: "sft: loss 0.412".
	Note string `json:"note,omitempty"`
	// Values are series worth drawing, by name: "loss", "reward", "kl".
	Values map[string]float64 `json:"values,omitempty"`
}

// Func receives updates. It must be quick and safe for concurrent use.
type Func func(Update)

// Report sends u unless f is nil, so that stages need no check of their own.
func (f Func) Report(u Update) {
	if f != nil {
		f(u)
	}
}
