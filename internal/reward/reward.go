package reward

// Problem is one line of a problems file (JSON Lines).
type Problem struct {
	ID     string `json:"id"`
	Prompt string `json:"prompt"` // "12+345="
	Answer string `json:"answer"` // "357"
}

// Result is a checker's judgement of one completion.
type Result struct {
	Correct bool `json:"correct"`
	// Thinks says that the completion worked the problem between <think> and
	// </think> before it answered.
	Thinks bool `json:"thinks"`
}

// Checker judges a completion (without the prompt) against the answer.
type Checker func(completion, answer string) Result
