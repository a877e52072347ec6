package plan

import (
	"bufio"
	_ "embed" // of the default trace
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Fault is one interval in which a node of a trace could not be used.
type Fault struct {
	Node        int
	Start, End  Hours
	Level       string
	Class       string
	Description string
}

// Trace is the node faults of a real cluster, by start. Nodes counts also
// those that never had one.
type Trace struct {
	Nodes  int
	Length Hours
	Faults []Fault
}

// TraceOptions is what the file itself does not say.
type TraceOptions struct {
	Nodes  int
	Length Hours
	// Merge joins faults of one node that overlap, which real traces have, and
	// lists them; without it they are an error.
	Merge bool
	// Keep selects faults; nil keeps all.
	Keep func(Fault) bool
}

//go:embed stepfun_even.csv
var stepfunEven string

// DefaultTrace is the faults of 200 nodes over 348 days of a real cluster
// (StepFun's, see testdata/PROVENANCE.md): how faults cluster, whose they are
// and how long repairs take where nobody has a trace of their own.
func DefaultTrace() (t Trace, notes []string, err error) {
	return ReadTrace(strings.NewReader(stepfunEven), TraceOptions{Nodes: 200, Length: 348 * 24, Merge: true})
}

// traceLimit is more lines than any year of any cluster has.
const traceLimit = 5_000_000

// ReadTrace reads "node,start_h,end_h,level,class,description" lines; lines with
// # are comments. Errors name the line. Notes say what was merged.
func ReadTrace(r io.Reader, o TraceOptions) (t Trace, notes []string, err error) {
	if o.Nodes <= 0 || !(o.Length > 0) || math.IsInf(float64(o.Length), 0) {
		return Trace{}, nil, fmt.Errorf("trace: %d nodes over %g h: must be positive", o.Nodes, float64(o.Length))
	}
	c := csv.NewReader(bufio.NewReader(r))
	c.Comment, c.FieldsPerRecord, c.ReuseRecord = '#', 6, true
	lines := map[int]int{} // by index of the fault
	for {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Trace{}, nil, fmt.Errorf("trace: %w", err)
		}
		line, _ := c.FieldPos(0)
		if record[0] == "node" {
			continue
		}
		f, err := parseFault(record)
		if err != nil {
			return Trace{}, nil, fmt.Errorf("trace: line %d: %w", line, err)
		}
		if f.Start > o.Length {
			return Trace{}, nil, fmt.Errorf("trace: line %d: start_h %g is after the trace's %g hours", line, float64(f.Start), float64(o.Length))
		}
		if len(t.Faults) >= traceLimit {
			return Trace{}, nil, fmt.Errorf("trace: line %d: more than %d faults", line, traceLimit)
		}
		if o.Keep == nil || o.Keep(f) {
			lines[len(t.Faults)] = line
			t.Faults = append(t.Faults, f)
		}
	}
	t.Nodes, t.Length = o.Nodes, o.Length
	notes, err = t.settle(lines, o.Merge)
	return t, notes, err
}

func parseFault(record []string) (f Fault, err error) {
	if f.Node, err = strconv.Atoi(record[0]); err != nil || f.Node < 0 {
		return f, fmt.Errorf("node %q: not a number from 0", record[0])
	}
	for i, at := range []*Hours{&f.Start, &f.End} {
		x, err := strconv.ParseFloat(record[1+i], 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) || x < 0 {
			return f, fmt.Errorf("%s %q: not hours from 0", []string{"start_h", "end_h"}[i], record[1+i])
		}
		*at = Hours(x)
	}
	if f.End < f.Start {
		return f, fmt.Errorf("end_h %g is before start_h %g", float64(f.End), float64(f.Start))
	}
	f.Level, f.Class, f.Description = strings.Clone(record[3]), strings.Clone(record[4]), strings.Clone(record[5])
	return f, nil
}

// settle orders the faults, checks the number of nodes and deals with overlaps.
func (t *Trace) settle(lines map[int]int, merge bool) (notes []string, err error) {
	order := make([]int, len(t.Faults))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return compare(t.Faults[a].Start, t.Faults[b].Start) })
	var kept []Fault
	last := map[int]int{} // node → index in kept
	at := map[int]int{}   // index in kept → line
	for _, i := range order {
		f := t.Faults[i]
		before, seen := last[f.Node]
		if seen && f.Start < kept[before].End {
			what := fmt.Sprintf("node %d: the fault from %.2f h begins before the one of line %d ends at %.2f h", f.Node, float64(f.Start), at[before], float64(kept[before].End))
			if !merge {
				return nil, fmt.Errorf("trace: line %d: %s; merge them if the source means one outage", lines[i], what)
			}
			notes = append(notes, fmt.Sprintf("line %d: %s: merged", lines[i], what))
			kept[before].End = max(kept[before].End, f.End)
			continue
		}
		last[f.Node] = len(kept)
		at[len(kept)] = lines[i]
		kept = append(kept, f)
	}
	if len(last) > t.Nodes {
		return nil, fmt.Errorf("trace: %d nodes had faults, more than the %d there are", len(last), t.Nodes)
	}
	t.Faults = kept
	return notes, nil
}

func compare(a, b Hours) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Hazard is faults per device-hour, with so many devices a node.
func (t Trace) Hazard(devicesPerNode int) Hazard {
	return Hazard(float64(len(t.Faults)) / (float64(t.Nodes*devicesPerNode) * float64(t.Length)))
}

// Split deals the nodes, also those without faults, into two traces at random:
// what is learnt from one can be judged on the other.
func (t Trace) Split(rng *rand.Rand) (a, b Trace) {
	half := map[int]bool{}
	nodes := t.faulty()
	rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	// Nodes are dealt like cards, so the number of faulty ones in each half varies as it would.
	left := t.Nodes / 2
	for i, n := range nodes {
		if rng.IntN(t.Nodes-i) < left {
			half[n] = true
			left--
		}
	}
	a = Trace{Nodes: t.Nodes / 2, Length: t.Length}
	b = Trace{Nodes: t.Nodes - t.Nodes/2, Length: t.Length}
	for _, f := range t.Faults {
		if half[f.Node] {
			a.Faults = append(a.Faults, f)
		} else {
			b.Faults = append(b.Faults, f)
		}
	}
	return a, b
}

// faulty lists the nodes that had a fault.
func (t Trace) faulty() []int {
	var nodes []int
	seen := map[int]bool{}
	for _, f := range t.Faults {
		if !seen[f.Node] {
			seen[f.Node] = true
			nodes = append(nodes, f.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}
