package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// How much of what. Two thirds of the solutions are worked out, one fifth are wrong.
const (
	solutions   = 3000
	problems    = 2000
	heldOut     = 200
	workedShare = 2.0 / 3
	wrongShare  = 0.2
	smallest    = 10
	largest     = 999
)

// annotators misjudge independently with these probabilities, and skip an item now and then.
var annotators = []struct {
	name          string
	error, absent float64
}{
	{"ana", 0.03, 0.01},
	{"ben", 0.05, 0.02},
	{"chi", 0.07, 0.04},
}

type annotation struct {
	ID         string             `json:"id"`
	Prompt     string             `json:"prompt"`
	Completion string             `json:"completion"`
	Votes      map[string]*string `json:"votes"`
}

type problem struct {
	ID     string `json:"id"`
	Prompt string `json:"prompt"`
	Answer string `json:"answer"`
}

type data struct {
	annotations       []annotation
	problems, heldOut []problem
}

// generate draws everything from one stream. No sum occurs twice in any of the
// three sets, also not with its numbers swapped.
func generate(seed uint64) data {
	rng := rand.New(rand.NewPCG(seed, 0x73756d73)) // "sums"
	used := map[[2]int]bool{}
	fresh := func() (a, b int) {
		for {
			a, b = smallest+rng.IntN(largest-smallest+1), smallest+rng.IntN(largest-smallest+1)
			key := [2]int{min(a, b), max(a, b)}
			if !used[key] {
				used[key] = true
				return a, b
			}
		}
	}
	draw := func(prefix string, n int) []problem {
		set := make([]problem, n)
		for i := range set {
			a, b := fresh()
			set[i] = problem{fmt.Sprintf("%s%04d", prefix, i+1), prompt(a, b), fmt.Sprint(a + b)}
		}
		return set
	}
	d := data{heldOut: draw("h", heldOut), problems: draw("p", problems)}
	for i := range solutions {
		a, b := fresh()
		s := solution{a: a, b: b, worked: rng.Float64() < workedShare}
		good := rng.Float64() >= wrongShare
		text := s.text()
		if !good {
			text = s.wrong(rng)
		}
		d.annotations = append(d.annotations, annotation{
			ID: fmt.Sprintf("s%04d", i+1), Prompt: prompt(a, b), Completion: text, Votes: vote(rng, good),
		})
	}
	return d
}

func prompt(a, b int) string { return fmt.Sprintf("%d+%d=", a, b) }

func vote(rng *rand.Rand, good bool) map[string]*string {
	votes := map[string]*string{}
	for _, a := range annotators {
		says := good != (rng.Float64() < a.error)
		if rng.Float64() < a.absent {
			votes[a.name] = nil
			continue
		}
		word := "bad"
		if says {
			word = "good"
		}
		votes[a.name] = &word
	}
	return votes
}

// solution is one candidate answer to a+b.
type solution struct {
	a, b   int
	worked bool
}

// text is the right solution: the answer, or digit by digit from the right with
// the carry and then the answer: "<think>7+8+0=15;5+4+1=10;</think>105".
func (s solution) text() string {
	working, answer := work(s.a, s.b, nil)
	return s.join(working, answer)
}

func (s solution) join(working string, answer int) string {
	if !s.worked {
		return fmt.Sprint(answer)
	}
	return "<think>" + working + "</think>" + fmt.Sprint(answer)
}

// work adds column by column. slip, if not nil, may spoil a column: it is given
// the column, the right sum and the right carry out, and returns what is written
// instead; what follows is consistent with what was written.
func work(a, b int, slip func(column, sum, carry int) (int, int)) (working string, answer int) {
	var w strings.Builder
	carry, place := 0, 1
	for column := 0; a > 0 || b > 0; column++ {
		x, y := a%10, b%10
		sum := x + y + carry
		out := sum / 10
		if slip != nil {
			sum, out = slip(column, sum, out)
		}
		fmt.Fprintf(&w, "%d+%d+%d=%d;", x, y, carry, sum)
		answer += sum % 10 * place
		carry = out
		a, b, place = a/10, b/10, place*10
	}
	return w.String(), answer + carry*place
}

// wrong is a solution with one of the mistakes that people make. It never comes
// out right by accident.
func (s solution) wrong(rng *rand.Rand) string {
	for {
		working, answer := s.mistake(rng)
		if answer != s.a+s.b && answer >= 0 {
			return s.join(working, answer)
		}
	}
}

func (s solution) mistake(rng *rand.Rand) (working string, answer int) {
	columns := len(fmt.Sprint(max(s.a, s.b)))
	spoiled := rng.IntN(columns)
	switch rng.IntN(3) {
	case 0: // a carry is dropped; the answer is right if that column has none, and another mistake is drawn
		return work(s.a, s.b, func(column, sum, carry int) (int, int) {
			if column == spoiled {
				carry = 0
			}
			return sum, carry
		})
	case 1: // a column's sum is off by one or two
		off := []int{-2, -1, 1, 2}[rng.IntN(4)]
		return work(s.a, s.b, func(column, sum, carry int) (int, int) {
			if column == spoiled && sum+off >= 0 {
				return sum + off, (sum + off) / 10
			}
			return sum, carry
		})
	default: // the working is right and the answer is off by ten
		working, answer = work(s.a, s.b, nil)
		return working, answer + []int{-10, 10}[rng.IntN(2)]
	}
}
