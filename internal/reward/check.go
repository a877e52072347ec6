package reward

import (
	"fmt"
	"slices"
	"strings"
)

// The tags around worked reasoning, as DeepSeek-R1 and Qwen3 write them.
const (
	thinkOpen  = "<think>"
	thinkClose = "</think>"
)

// Names lists the checkers that NewChecker knows.
func Names() []string { return []string{"answer"} }

// NewChecker returns the checker of that name. "answer" is right when the
// final answer (see Final), trimmed, equals the problem's answer exactly.
func NewChecker(name string) (Checker, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("no reward checker is called %q; there is %s", name, strings.Join(Names(), ", "))
	}
	return answer, nil
}

func answer(completion, want string) Result {
	final, thinks := Final(completion)
	// An empty answer must not be won by saying nothing.
	return Result{Correct: want != "" && final == strings.TrimSpace(want), Thinks: thinks}
}

// Final splits off a completion's answer: what follows the last </think> where
// the completion starts with a <think> that is closed, else all of it; trimmed.
// thinks says that there is such a block and that something is written in it.
//
// An open <think> without an end, or a stray </think>, is not a think block: the
// tags then count as part of the answer, which makes it wrong.
func Final(completion string) (final string, thinks bool) {
	rest, opened := strings.CutPrefix(strings.TrimSpace(completion), thinkOpen)
	inside, _, closed := strings.Cut(rest, thinkClose)
	if !opened || !closed {
		return strings.TrimSpace(completion), false
	}
	last := strings.LastIndex(rest, thinkClose)
	return strings.TrimSpace(rest[last+len(thinkClose):]), strings.TrimSpace(inside) != ""
}
