package label

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"tarbert/internal/gate"
	"tarbert/internal/spec"
	"tarbert/internal/store"
)

// Input of the stage.
type Input struct {
	Spec   spec.Label
	Seed   uint64 // of the bootstrap
	OutDir string // absolute; the dataset and the adjudication list go here
}

// Dataset is the immutable file that training reads: JSON Lines of
// {"id","prompt","completion"}, named dataset-<first 12 hex digits of its digest>.jsonl.
type Dataset struct {
	Path     string `json:"path"`
	Digest   string `json:"digest"` // sha256 of the bytes, hex
	Examples int    `json:"examples"`
}

// Annotator is how one annotator did.
type Annotator struct {
	Name  string `json:"name"`
	Votes int    `json:"votes"`
	// Majority is the share of this annotator's votes that equal the adjudicated
	// label, over items that have one; nil if there is none.
	Majority *float64 `json:"majority"`
}

// Report of the stage.
type Report struct {
	// Alpha is Krippendorff's α (nominal) and Lower its one-sided lower
	// confidence bound; nil where undefined, with the reason in Undefined.
	Alpha     *float64 `json:"alpha"`
	Lower     *float64 `json:"lower"`
	Undefined string   `json:"undefined,omitempty"`

	Confidence float64 `json:"confidence"`
	Resamples  int     `json:"resamples"`

	Items    int            `json:"items"`
	Pairable int            `json:"pairable"` // items with two votes or more: the ones α rests on
	Accepted int            `json:"accepted"` // items adjudicated as the accepted label
	Rejected int            `json:"rejected"` // items adjudicated as another one
	Ties     int            `json:"ties"`     // items for people to decide, those without a vote included
	Labels   map[string]int `json:"labels"`   // adjudicated items per label

	Annotators []Annotator `json:"annotators"`
	Dataset    Dataset     `json:"dataset"`
	// Adjudication is the list of ties, JSON Lines; empty if there are none.
	Adjudication string      `json:"adjudication,omitempty"`
	Gate         gate.Result `json:"gate"`
}

// Run reads the annotations, writes the dataset and the adjudication list, and
// judges the agreement.
func Run(ctx context.Context, in Input) (*Report, error) {
	items, err := readAnnotations(in.Spec.Annotations)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	labels := labelsOf(items)
	r := &Report{
		Confidence: in.Spec.Agreement.Confidence, Resamples: in.Spec.Agreement.Resamples,
		Items: len(items), Labels: map[string]int{},
	}
	r.agreement(items, labels, in.Seed)

	decided := make([]string, len(items)) // "" = a tie
	for i, a := range items {
		decided[i] = adjudicate(a)
	}
	r.Annotators = annotatorsOf(items, decided)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.write(in, items, decided); err != nil {
		return nil, err
	}
	r.Gate = judge(r, in.Spec)
	return r, nil
}

// labelsOf lists the labels that occur, sorted.
func labelsOf(items []Annotation) []string {
	set := map[string]bool{}
	for _, a := range items {
		for _, v := range a.Votes {
			if v != nil {
				set[*v] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// countsOf is an item's votes by the labels' order.
func countsOf(a Annotation, labels []string) counts {
	c := make(counts, len(labels))
	for _, v := range a.Votes {
		if v != nil {
			i, _ := slices.BinarySearch(labels, *v)
			c[i]++
		}
	}
	return c
}

// agreementStream keeps the bootstrap apart from whatever else the release's seed draws.
const agreementStream = 0x6c6162656c // "label"

func (r *Report) agreement(items []Annotation, labels []string, seed uint64) {
	all := make([]counts, len(items))
	for i, a := range items {
		all[i] = countsOf(a, labels)
	}
	pairs := pairable(all)
	r.Pairable = len(pairs)
	a, defined := alpha(pairs, len(labels))
	switch {
	case len(pairs) == 0:
		r.Undefined = "no item has two votes"
		return
	case !defined:
		r.Undefined = "all votes on items with two or more are alike, so chance agreement is total"
		return
	}
	r.Alpha = &a
	rng := rand.New(rand.NewPCG(seed, agreementStream))
	if low, ok := lowerBound(pairs, len(labels), r.Resamples, r.Confidence, rng); ok {
		r.Lower = &low
	} else {
		r.Undefined = "alpha is undefined in too many resamples: almost all votes are alike"
	}
}

// adjudicate is the label with most votes, or "" if several have most or none has any.
func adjudicate(a Annotation) string {
	got := map[string]int{}
	for _, v := range a.Votes {
		if v != nil {
			got[*v]++
		}
	}
	best, most := "", 0
	for label, n := range got {
		switch {
		case n > most:
			best, most = label, n
		case n == most:
			best = ""
		}
	}
	return best
}

func annotatorsOf(items []Annotation, decided []string) []Annotator {
	votes, same, of := map[string]int{}, map[string]int{}, map[string]int{}
	for i, a := range items {
		for who, v := range a.Votes {
			if v == nil {
				votes[who] += 0 // is listed even without a vote
				continue
			}
			votes[who]++
			if decided[i] != "" {
				of[who]++
				if *v == decided[i] {
					same[who]++
				}
			}
		}
	}
	var all []Annotator
	for _, who := range slices.Sorted(maps.Keys(votes)) {
		a := Annotator{Name: who, Votes: votes[who]}
		if of[who] > 0 {
			share := float64(same[who]) / float64(of[who])
			a.Majority = &share
		}
		all = append(all, a)
	}
	return all
}

// example is a line of the dataset.
type example struct {
	ID         string `json:"id"`
	Prompt     string `json:"prompt"`
	Completion string `json:"completion"`
}

// write leaves the dataset and, if there are ties, the adjudication list.
func (r *Report) write(in Input, items []Annotation, decided []string) error {
	var accepted, ties bytes.Buffer
	good, open := lineWriter(&accepted), lineWriter(&ties)
	for i, a := range items {
		var err error
		switch decided[i] {
		case "":
			r.Ties++
			err = open.Encode(a)
		case in.Spec.Accept:
			r.Accepted++
			err = good.Encode(example{a.ID, a.Prompt, a.Completion})
		default:
			r.Rejected++
		}
		if err != nil {
			return fmt.Errorf("item %s: %w", a.ID, err)
		}
		if decided[i] != "" {
			r.Labels[decided[i]]++
		}
	}
	if err := os.MkdirAll(in.OutDir, 0o755); err != nil {
		return fmt.Errorf("write dataset: %w", err)
	}
	sum := sha256.Sum256(accepted.Bytes())
	digest := hex.EncodeToString(sum[:])
	r.Dataset = Dataset{Path: filepath.Join(in.OutDir, "dataset-"+digest[:12]+".jsonl"), Digest: digest, Examples: r.Accepted}
	if err := store.WriteFile(r.Dataset.Path, accepted.Bytes(), 0o444); err != nil {
		return fmt.Errorf("write dataset: %w", err)
	}
	list := filepath.Join(in.OutDir, "adjudication.jsonl")
	if r.Ties == 0 {
		if err := os.Remove(list); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove an old adjudication list: %w", err)
		}
		return nil
	}
	r.Adjudication = list
	if err := store.WriteFile(list, ties.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write adjudication list: %w", err)
	}
	return nil
}

// lineWriter writes JSON Lines for people: <think> stays <think>.
func lineWriter(b *bytes.Buffer) *json.Encoder {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	return enc
}
