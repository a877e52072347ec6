package convert

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

//go:embed architectures.json
var architecturesJSON []byte

// Rule says why the modules or tensors that match are treated as they are. In a
// pattern, * stands for any run of characters, dots included.
type Rule struct {
	Match  string `json:"match"`
	Reason string `json:"reason"`
}

// architecture is what is known of a model type's tensors.
type architecture struct {
	ModelType string `json:"model_type"`
	// Float lists modules that stay in bfloat16; it goes before Linear.
	Float []Rule `json:"float"`
	// Linear lists modules whose weight is quantised.
	Linear []string `json:"linear"`
	// Fused lists siblings that engines load as one, so that they need one type.
	Fused [][]string `json:"fused"`
	// Order lists a layer's modules as msmodelslim goes through them: it decides
	// nothing but the order of lines in its description.
	Order []string `json:"order"`
	// FP8 lists modules of Float that FP8 engines take as FP8 all the same.
	FP8 []string `json:"fp8"`
	// Drop, Float32 and Integers hold tensor names; they come from the default lists.
	Drop     []Rule `json:"drop"`
	Float32  []Rule `json:"float32"`
	Integers []Rule `json:"integers"`
	// Native is the table between Hugging Face's names and the vendor's own, where
	// there are two.
	Native *renames `json:"native"`
}

// findArchitecture reads the lists for a model type. An unknown one gets the
// default lists and known false: enough to cast, not to quantise.
func findArchitecture(modelType string) (a architecture, known bool, err error) {
	var all struct {
		Default       architecture   `json:"default"`
		Architectures []architecture `json:"architectures"`
	}
	dec := json.NewDecoder(bytes.NewReader(architecturesJSON))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&all); err != nil {
		return architecture{}, false, fmt.Errorf("architectures.json: %w", err)
	}
	for _, b := range all.Architectures {
		if b.ModelType == modelType {
			a, known = b, true
		}
	}
	a.ModelType = modelType
	a.Drop = append(slices.Clone(all.Default.Drop), a.Drop...)
	a.Float32 = append(slices.Clone(all.Default.Float32), a.Float32...)
	a.Integers = append(slices.Clone(all.Default.Integers), a.Integers...)
	return a, known, nil
}

// modelTypes lists those that can be quantised.
func modelTypes() []string {
	var all struct {
		Architectures []architecture `json:"architectures"`
	}
	if json.Unmarshal(architecturesJSON, &all) != nil {
		return nil
	}
	var names []string
	for _, a := range all.Architectures {
		names = append(names, a.ModelType)
	}
	return names
}

// find returns the first rule that matches.
func find(rules []Rule, name string) (Rule, bool) {
	for _, r := range rules {
		if matches(r.Match, name) {
			return r, true
		}
	}
	return Rule{}, false
}

// matches reports whether name is an instance of pattern, in which * stands for
// any run of characters. Time is linear in practice: the last * is the only one
// ever retried.
func matches(pattern, name string) bool {
	p, n, star, retry := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			retry++
			p, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// fusedGroups names the groups that a module belongs to: siblings that engines
// concatenate, and all experts of a layer.
func (a architecture) fusedGroups(module string) []string {
	var groups []string
	parent, child := "", module
	if i := strings.LastIndexByte(module, '.'); i >= 0 {
		parent, child = module[:i], module[i+1:]
	}
	for _, siblings := range a.Fused {
		if slices.Contains(siblings, child) {
			groups = append(groups, parent+".{"+strings.Join(siblings, ",")+"}")
		}
	}
	if i := strings.Index(module, ".experts."); i >= 0 {
		groups = append(groups, module[:i]+".experts.*")
	}
	return groups
}
