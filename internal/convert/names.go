package convert

import (
	"fmt"
	"strings"
)

// Layout says how tensors are named in the destination.
type Layout string

const (
	// AsSource keeps the source's names.
	AsSource Layout = ""
	// HF is Hugging Face's: model.layers.0.self_attn.q_a_proj.weight.
	HF Layout = "hf"
	// Native is the vendor's own: layers.0.attn.wq_a.weight.
	Native Layout = "native"
)

// renames is an architecture's table between Hugging Face's names and the
// vendor's own. It must be one to one.
type renames struct {
	// Prefix stands before every name of Hugging Face's but those of Roots.
	Prefix string `json:"prefix"`
	// Roots holds first components, Parts other ones, Ends last two.
	Roots map[string]string `json:"roots"`
	Parts map[string]string `json:"parts"`
	Ends  map[string]string `json:"ends"`
}

// naming translates a source's names.
type naming struct {
	table  *renames // nil where the architecture has none
	back   renames  // table, inverted
	native bool     // the source's names are the vendor's own
}

// newNaming tells from the names which of the two a source has.
func newNaming(a architecture, has func(name string) bool) naming {
	n := naming{table: a.Native}
	if n.table == nil {
		return n
	}
	n.back = renames{Roots: inverted(n.table.Roots), Parts: inverted(n.table.Parts), Ends: inverted(n.table.Ends)}
	for hf, native := range n.table.Roots {
		if has(native+".weight") && !has(hf+".weight") {
			n.native = true
		}
	}
	return n
}

// hf is the name that the architecture's lists go by.
func (n naming) hf(name string) string {
	if !n.native {
		return name
	}
	parts := strings.Split(name, ".")
	if to, ok := n.back.Roots[parts[0]]; ok {
		parts[0] = to
		return strings.Join(parts, ".")
	}
	rename(parts, n.back.Parts, n.back.Ends)
	return n.table.Prefix + strings.Join(parts, ".")
}

// translate returns what names become in a layout, given those of Hugging Face.
func (n naming) translate(l Layout, modelType string) (func(string) string, error) {
	same := func(name string) string { return name }
	switch {
	case l != AsSource && l != HF && l != Native:
		return nil, fmt.Errorf("no layout %q: there are %s and %s", l, HF, Native)
	case l != AsSource && n.table == nil:
		return nil, fmt.Errorf("layout %s: %s has one set of names here; leave the layout out", l, modelType)
	case l == Native || l == AsSource && n.native:
		return n.table.toNative, nil
	}
	return same, nil
}

func (r *renames) toNative(name string) string {
	parts := strings.Split(name, ".")
	if to, ok := r.Roots[parts[0]]; ok {
		parts[0] = to
		return strings.Join(parts, ".")
	}
	parts = strings.Split(strings.TrimPrefix(name, r.Prefix), ".")
	rename(parts, r.Parts, r.Ends)
	return strings.Join(parts, ".")
}

// rename replaces components, and the last two where they are one of ends.
func rename(parts []string, components, ends map[string]string) {
	n := len(parts)
	if n >= 2 {
		if to, ok := ends[parts[n-2]+"."+parts[n-1]]; ok {
			parts[n-2], parts[n-1], _ = strings.Cut(to, ".")
		}
	}
	for i, p := range parts {
		if to, ok := components[p]; ok {
			parts[i] = to
		}
	}
}

func inverted(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[v] = k
	}
	return out
}
