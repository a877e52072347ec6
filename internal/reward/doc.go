// Package reward holds problems with verifiable answers and the checkers that
// judge completions. Training draws rewards from it, comparison draws scores:
// both must judge alike, so there is one implementation.
package reward
