package engine

import (
	"errors"
	"fmt"
	"strings"
)

// What an endpoint can get wrong. Every error of Client wraps one of these, a
// *StatusError or the network's own error, so that callers can tell an engine
// that lies from one that is not there. None of them is ever turned into a
// number: a failure is never a zero.
var (
	// ErrNoPromptLogProbs: the answer carries none. llama-server ignores the
	// field and some gateways drop it.
	ErrNoPromptLogProbs = errors.New("endpoint returned no prompt_logprobs")
	ErrLength           = errors.New("wrong number of entries")
	ErrFirst            = errors.New("first entry is not null")
	ErrMissing          = errors.New("log-probability is missing")
	ErrNotFinite        = errors.New("log-probability is not finite")
	ErrPositive         = errors.New("log-probability is above zero")
	ErrTooFew           = errors.New("fewer entries than asked for")
	ErrToken            = errors.New("not a token id")
	ErrNotDistribution  = errors.New("probabilities sum to more than one")
	ErrPrompt           = errors.New("endpoint changed the prompt")
	// ErrNoPath: none of the ways to teacher-forced log-probabilities is open.
	ErrNoPath = errors.New("no teacher-forced log-probabilities can be had")
	// ErrMalformed: the answer is not the JSON it should be, or was cut off.
	ErrMalformed = errors.New("malformed answer")
	// ErrTooLarge: the answer is longer than Client.MaxBody.
	ErrTooLarge = errors.New("answer is too large")
	// ErrNoTokenIDs: token ids were asked for and did not come.
	ErrNoTokenIDs = errors.New("endpoint returned no token ids")
	// ErrUnfinished: a completion without a finish reason.
	ErrUnfinished = errors.New("completion has no finish_reason")
	// ErrSlow: one request got no whole answer in Client.Timeout.
	ErrSlow = errors.New("no answer")
	// ErrNotReady: the deployment did not become ready in time.
	ErrNotReady = errors.New("engine is not ready")
	// ErrExited: the engine's process ended.
	ErrExited = errors.New("engine exited")
)

// Violation is an answer that breaks the protocol at one place, or did not
// come. It wraps one of the errors above, or why it did not come.
type Violation struct {
	Prompt   int // index in the call
	Position int // token position; -1 = the whole prompt
	Kind     error
	Detail   string
}

// Error names the prompt and the position.
func (v *Violation) Error() string {
	where := fmt.Sprintf("prompt %d", v.Prompt)
	if v.Position >= 0 {
		where += fmt.Sprintf(", position %d", v.Position)
	}
	if v.Detail == "" {
		return where + ": " + v.Kind.Error()
	}
	return where + ": " + v.Kind.Error() + ": " + v.Detail
}

// Unwrap returns the kind.
func (v *Violation) Unwrap() error { return v.Kind }

// StatusError is an HTTP answer other than 200.
type StatusError struct {
	Method, URL string
	Code        int
	// Type, Message and Param are the error object's, where there is one:
	// {"error":{…}} of vLLM and OpenAI, {"error":"…"}, {"detail":"…"}.
	Type, Message, Param string
}

// Error gives the server's own words.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s %s: HTTP %d", e.Method, e.URL, e.Code)
	if e.Message != "" {
		s += ": " + strings.TrimSpace(e.Message)
	}
	if e.Param != "" {
		s += " (" + e.Param + ")"
	}
	return s
}
