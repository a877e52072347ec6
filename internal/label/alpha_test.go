package label

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// table reads a reliability data matrix as the papers print it: a row per
// annotator, a letter or digit per item, "." for a missing value.
func table(rows ...string) (items []counts, labels int) {
	index := map[rune]int{}
	for _, row := range rows {
		for _, v := range strings.ReplaceAll(row, " ", "") {
			if _, ok := index[v]; !ok && v != '.' {
				index[v] = len(index)
			}
		}
	}
	for i := range strings.ReplaceAll(rows[0], " ", "") {
		c := make(counts, len(index))
		for _, row := range rows {
			if v := rune(strings.ReplaceAll(row, " ", "")[i]); v != '.' {
				c[index[v]]++
			}
		}
		items = append(items, c)
	}
	return items, len(index)
}

// Published values, to the three digits that are published.
func TestPublishedAlpha(t *testing.T) {
	const paper = "K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011)"
	for _, c := range []struct {
		source string
		rows   []string
		want   float64
	}{
		{paper + ", A: binary, two observers", []string{
			"0 1 0 0 0 0 0 0 1 0",
			"1 1 1 0 0 1 0 0 0 0",
		}, 0.095},
		{paper + ", B: nominal, two observers", []string{
			"a a b b d c c c e d d a",
			"b a b b b c c c e d d d",
		}, 0.692},
		{paper + ", C: nominal, four observers, missing data", []string{
			"1 2 3 3 2 1 4 1 2 . . .",
			"1 2 3 3 2 2 4 1 2 5 . 3",
			". 3 3 3 2 3 4 2 2 5 1 .",
			"1 2 3 3 2 4 4 1 2 5 1 .",
		}, 0.743},
		{"Wikipedia, Krippendorff's alpha: three coders, fifteen units, missing data", []string{
			". . . . . 3 4 1 2 1 1 3 3 . 3",
			"1 . 2 1 3 3 4 3 . . . . . . .",
			". . 2 1 3 4 4 . 2 1 1 3 3 . 4",
		}, 0.691},
	} {
		items, labels := table(c.rows...)
		got, ok := alpha(items, labels)
		if !ok || math.Abs(got-c.want) > 0.0005 {
			t.Errorf("%s: alpha %.4f (defined %v), want %.3f", c.source, got, ok, c.want)
		}
	}
}

func TestAlphaAtItsEnds(t *testing.T) {
	for _, c := range []struct {
		name    string
		rows    []string
		want    float64
		defined bool
	}{
		{"perfect", []string{"aabb", "aabb"}, 1, true},
		{"always unlike", []string{"abab", "baba"}, 1 - 7*8.0/32, true}, // D = 4 items × 2, D_e from 4 and 4
		{"constant", []string{"aaaa", "aaaa"}, 0, false},
		{"no two votes", []string{"ab..", "..ab"}, 0, false},
		{"variation only where nothing pairs", []string{"aab", "aa."}, 0, false},
	} {
		items, labels := table(c.rows...)
		got, ok := alpha(items, labels)
		if ok != c.defined || math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: %v, defined %v; want %v, %v", c.name, got, ok, c.want, c.defined)
		}
	}
}

// drawItems draws items with up to four labels and six votes.
func drawItems(t *rapid.T) (items []counts, labels int) {
	labels = rapid.IntRange(1, 4).Draw(t, "labels")
	n := rapid.IntRange(0, 30).Draw(t, "items")
	for range n {
		c := make(counts, labels)
		for range rapid.IntRange(0, 6).Draw(t, "votes") {
			c[rapid.IntRange(0, labels-1).Draw(t, "vote")]++
		}
		items = append(items, c)
	}
	return items, labels
}

func same(a float64, aok bool, b float64, bok bool) bool {
	return aok == bok && (!aok || math.Abs(a-b) < 1e-9)
}

// α is not changed by the order of items, the order of labels, or items that
// nothing can be paired in; it is at most 1. (The order of annotators is not in
// the counts at all; TestAnnotatorsAreInterchangeable looks at that from outside.)
func TestAlphaInvariances(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, labels := drawItems(t)
		a, ok := alpha(items, labels)
		if ok && a > 1+1e-12 {
			t.Fatalf("alpha %v is more than 1", a)
		}
		shuffled := rapid.Permutation(items).Draw(t, "order of items")
		if b, bok := alpha(shuffled, labels); !same(a, ok, b, bok) {
			t.Fatalf("items shuffled: %v, %v; before %v, %v", b, bok, a, ok)
		}
		order := rapid.Permutation(indexes(labels)).Draw(t, "order of labels")
		renamed := make([]counts, len(items))
		for i, c := range items {
			renamed[i] = make(counts, labels)
			for l, x := range c {
				renamed[i][order[l]] = x
			}
		}
		if b, bok := alpha(renamed, labels); !same(a, ok, b, bok) {
			t.Fatalf("labels renamed: %v, %v; before %v, %v", b, bok, a, ok)
		}
		single := make(counts, labels)
		single[0] = 1
		more := append(slices.Clone(items), single, make(counts, labels))
		if b, bok := alpha(more, labels); !same(a, ok, b, bok) {
			t.Fatalf("items without pairs added: %v, %v; before %v, %v", b, bok, a, ok)
		}
	})
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// The same by the definition: a coincidence matrix over ordered pairs of votes.
func TestAlphaEqualsTheCoincidenceMatrix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, labels := drawItems(t)
		a, ok := alpha(items, labels)
		b, bok := byDefinition(items, labels)
		if !same(a, ok, b, bok) {
			t.Fatalf("%v, %v; by the matrix %v, %v", a, ok, b, bok)
		}
	})
}

func byDefinition(items []counts, labels int) (float64, bool) {
	o := make([][]float64, labels)
	for i := range o {
		o[i] = make([]float64, labels)
	}
	for _, c := range items {
		var votes []int
		for l, x := range c {
			for range x {
				votes = append(votes, l)
			}
		}
		for i, a := range votes {
			for j, b := range votes {
				if i != j {
					o[a][b] += 1 / float64(len(votes)-1)
				}
			}
		}
	}
	n, marginal := 0.0, make([]float64, labels)
	for a := range o {
		for b := range o {
			marginal[a] += o[a][b]
			n += o[a][b]
		}
	}
	observed, expected := 0.0, 0.0
	for a := range o {
		for b := range o {
			if a != b {
				observed += o[a][b]
				expected += marginal[a] * marginal[b] / (n - 1)
			}
		}
	}
	if expected < 1e-12 || n == 0 {
		return 0, false
	}
	return 1 - observed/expected, true
}

// noisy draws items judged by three annotators with an error rate of 8 %.
func noisy(n int, rng *rand.Rand) []counts {
	items := make([]counts, n)
	for i := range items {
		truth, c := rng.IntN(2), make(counts, 2)
		for range 3 {
			v := truth
			if rng.Float64() < 0.08 {
				v = 1 - v
			}
			c[v]++
		}
		items[i] = c
	}
	return items
}

func TestLowerBound(t *testing.T) {
	items := noisy(400, rand.New(rand.NewPCG(1, 2)))
	a, _ := alpha(items, 2)
	bound := func(items []counts, confidence float64, seed uint64) float64 {
		t.Helper()
		low, ok := lowerBound(items, 2, 2000, confidence, rand.New(rand.NewPCG(seed, 0)))
		if !ok {
			t.Fatal("undefined")
		}
		return low
	}
	low := bound(items, 0.95, 7)
	if low >= a || low < a-0.15 {
		t.Errorf("bound %.3f of alpha %.3f", low, a)
	}
	if again := bound(items, 0.95, 7); again != low {
		t.Errorf("the same seed gives %v and %v", low, again)
	}
	if surer := bound(items, 0.999, 7); surer >= low {
		t.Errorf("99.9 %% bound %.3f is not below the 95 %% bound %.3f", surer, low)
	}
	backwards := slices.Clone(items)
	slices.Reverse(backwards)
	if other := bound(backwards, 0.95, 7); other != low {
		t.Errorf("order of items moves the bound from %v to %v", low, other)
	}
}

// The bound is what it says: below the true α in about 95 of 100 repetitions.
// α of the process: votes are wrong with p = 0.08, labels balanced, so
// α = 1 − 2p(1−p)/½ = (1 − 2p)².
func TestLowerBoundCovers(t *testing.T) {
	truth := (1 - 2*0.08) * (1 - 2*0.08)
	rng := rand.New(rand.NewPCG(3, 4))
	covered := 0
	const repetitions = 400
	for range repetitions {
		low, ok := lowerBound(noisy(300, rng), 2, 300, 0.95, rng)
		if ok && low <= truth {
			covered++
		}
	}
	if share := float64(covered) / repetitions; share < 0.91 || share > 0.985 {
		t.Errorf("the 95 %% bound covers in %.3f of %d repetitions", share, repetitions)
	}
}

// Few items that all agree prove little: the bound is undefined, not 1.
func TestLowerBoundOfAlmostNothing(t *testing.T) {
	items, labels := table("ab", "ab")
	if low, ok := lowerBound(items, labels, 1000, 0.95, rand.New(rand.NewPCG(1, 1))); ok {
		t.Errorf("two items give the bound %v", low)
	}
	if _, ok := lowerBound(nil, 2, 1000, 0.95, rand.New(rand.NewPCG(1, 1))); ok {
		t.Error("no items give a bound")
	}
}

func TestBootstrapIsQuick(t *testing.T) {
	items := noisy(3000, rand.New(rand.NewPCG(1, 2)))
	began := time.Now()
	lowerBound(items, 2, 1000, 0.95, rand.New(rand.NewPCG(1, 1)))
	if took := time.Since(began); took > 2*time.Second { // 0.04 s on an idle core; the machine may be loaded
		t.Errorf("3,000 items × 1,000 resamples took %v", took)
	}
}

func BenchmarkLowerBound(b *testing.B) {
	items := noisy(3000, rand.New(rand.NewPCG(1, 2)))
	for b.Loop() {
		lowerBound(items, 2, 1000, 0.95, rand.New(rand.NewPCG(1, 1)))
	}
}
