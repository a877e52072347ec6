package train

import (
	"fmt"
	"slices"
	"time"

	"tarbert/internal/device"
)

// ChipFault is what a chip, or a trainer on its behalf, reported.
type ChipFault struct {
	Chip   string        `json:"chip"`
	Code   string        `json:"code"`
	Text   string        `json:"text,omitempty"`
	At     time.Time     `json:"at"`
	Remedy device.Remedy `json:"remedy"`
}

const (
	togetherWithin = 30 * time.Second // the same fault on several chips: it is the program
	repeatWithin   = 24 * time.Hour   // the same chip twice: it is the chip
)

// Blame says what faults are to be done about.
type Blame struct {
	Program string   // why the program is at fault; empty if it is not
	Cordon  []string // chips to leave out, with the reason in Why
	Why     []string
	Restart bool // the attempt must end for it
}

// blame follows MindCluster's rules: a fault of the process kind that comes on
// two or more chips within 30 s is the program's; a chip that has a fault twice
// within a day, or whose fault says so, is left out. A code that nobody knows
// is recorded only.
func blame(faults []ChipFault) Blame {
	var b Blame
	cordon := func(chip, format string, args ...any) {
		if !slices.Contains(b.Cordon, chip) {
			b.Cordon = append(b.Cordon, chip)
			b.Why = append(b.Why, fmt.Sprintf("chip %s: ", chip)+fmt.Sprintf(format, args...))
		}
	}
	for i, f := range faults {
		switch f.Remedy {
		case device.RemedyReset, device.RemedyIsolate, device.RemedyNode:
			cordon(f.Chip, "%s asks for %s", f.Code, f.Remedy)
			b.Restart = true
		case device.RemedyDrain:
			cordon(f.Chip, "%s asks for no new work on it", f.Code)
		case device.RemedyProcess:
			b.Restart = true
			together := false
			for j, g := range faults {
				if i != j && g.Code == f.Code && g.Chip != f.Chip && g.At.Sub(f.At).Abs() <= togetherWithin {
					together = true
					b.Program = fmt.Sprintf("%s on chips %s and %s within %v: several chips do not break at once, the program does this", f.Code, f.Chip, g.Chip, g.At.Sub(f.At).Abs().Round(time.Millisecond))
				}
			}
			if together {
				continue
			}
			for j, g := range faults[:i] {
				// What came with others at the time was the program's.
				if g.Chip == f.Chip && g.Remedy == device.RemedyProcess && f.At.Sub(g.At) > togetherWithin && f.At.Sub(g.At) <= repeatWithin && !companion(faults, j) {
					cordon(f.Chip, "%s for the second time within %v", f.Code, f.At.Sub(g.At).Round(time.Second))
				}
			}
		}
	}
	return b
}

// companion says whether a fault came on several chips at once.
func companion(faults []ChipFault, i int) bool {
	f := faults[i]
	return slices.ContainsFunc(faults, func(g ChipFault) bool {
		return g.Code == f.Code && g.Chip != f.Chip && g.At.Sub(f.At).Abs() <= togetherWithin
	})
}
