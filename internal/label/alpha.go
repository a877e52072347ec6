package label

import (
	"math"
	"math/rand/v2"
	"slices"
)

// counts is how many votes each label got on one item: all that α needs of it.
type counts []int

func (c counts) votes() int {
	n := 0
	for _, x := range c {
		n += x
	}
	return n
}

// disagreement is the item's share of the observed disagreement: ordered pairs
// of unlike votes over votes − 1, which is what the item adds to the off-diagonal
// of the coincidence matrix. The item must have two votes or more.
func (c counts) disagreement() float64 {
	m, unlike := c.votes(), 0
	for _, x := range c {
		unlike += x * (m - x)
	}
	return float64(unlike) / float64(m-1)
}

// tally is a set of items in the terms that α is made of.
type tally struct {
	disagreement float64 // D, summed over items
	labels       []int   // votes per label on pairable items
}

// alpha is Krippendorff's α for nominal labels,
//
//	α = 1 − D_o/D_e,  D_o = D/n,  D_e = Σ_c n_c (n − n_c) / (n (n − 1))
//
// with n votes on pairable items (K. Krippendorff, Computing Krippendorff's
// Alpha-Reliability, 2011, part C). It is undefined without two different votes.
func (t tally) alpha() (float64, bool) {
	n := 0
	for _, x := range t.labels {
		n += x
	}
	unlike := 0.0
	for _, x := range t.labels {
		unlike += float64(x) * float64(n-x)
	}
	if unlike == 0 {
		return 0, false
	}
	return 1 - float64(n-1)*t.disagreement/unlike, true
}

// add counts an item k times.
func (t *tally) add(c counts, disagreement float64, k int) {
	t.disagreement += float64(k) * disagreement
	for i, x := range c {
		t.labels[i] += k * x
	}
}

// pairable keeps the items that α rests on: those with two votes or more.
func pairable(items []counts) []counts {
	var out []counts
	for _, c := range items {
		if c.votes() >= 2 {
			out = append(out, c)
		}
	}
	return out
}

// alpha of items with labels kinds of label.
func alpha(items []counts, labels int) (float64, bool) {
	t := tally{labels: make([]int, labels)}
	for _, c := range pairable(items) {
		t.add(c, c.disagreement(), 1)
	}
	return t.alpha()
}

// lowerBound is the one-sided lower confidence bound of α: the percentile of a
// bootstrap over pairable items. A resample in which α is undefined counts as
// lower than any other; the bound is undefined if it falls on one.
//
// Items with the same counts are interchangeable, so a resample is how often
// each kind of item was drawn: the order of items does not matter, and the cost
// is one draw an item.
func lowerBound(items []counts, labels, resamples int, confidence float64, rng *rand.Rand) (float64, bool) {
	items = pairable(items)
	if len(items) == 0 {
		return 0, false
	}
	kinds, of := kindsOf(items)
	disagreement := make([]float64, len(kinds))
	for i, c := range kinds {
		disagreement[i] = c.disagreement()
	}
	drawn := make([]int, len(kinds))
	alphas := make([]float64, resamples)
	for r := range alphas {
		clear(drawn)
		for range of {
			drawn[of[rng.IntN(len(of))]]++
		}
		t := tally{labels: make([]int, labels)}
		for i, k := range drawn {
			t.add(kinds[i], disagreement[i], k)
		}
		a, defined := t.alpha()
		if !defined {
			a = math.Inf(-1)
		}
		alphas[r] = a
	}
	slices.Sort(alphas)
	// The small addend keeps 0.05·1000 from being 49.99….
	k := int((1-confidence)*float64(resamples) + 1e-9)
	a := alphas[max(k-1, 0)]
	return a, !math.IsInf(a, -1)
}

// kindsOf lists the different counts, in a fixed order, and each item's place
// among them, ascending.
func kindsOf(items []counts) (kinds []counts, of []int) {
	sorted := slices.Clone(items)
	slices.SortFunc(sorted, func(a, b counts) int { return slices.Compare(a, b) })
	for _, c := range sorted {
		if len(kinds) == 0 || !slices.Equal(kinds[len(kinds)-1], c) {
			kinds = append(kinds, c)
		}
		of = append(of, len(kinds)-1)
	}
	return kinds, of
}
