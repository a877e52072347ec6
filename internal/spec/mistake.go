package spec

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// mark is a place in the file. Lines and columns count from 1, columns and
// widths in characters.
type mark struct{ line, column, width int }

// Mistake is one thing that is wrong with a release file.
type Mistake struct {
	Line   int    `json:"line"`
	Column int    `json:"column"`
	What   string `json:"what"`
	Source string `json:"source"` // the offending line
	Hint   string `json:"hint"`   // what to write instead

	width int
}

// Error is everything that is wrong with a release file, in order of place.
type Error struct {
	File     string // as the caller gave it
	Mistakes []Mistake
}

// most is how many mistakes are printed: past these the first ones should be mended first.
const most = 10

// Error prints each mistake as file:line:column, the line with a caret, and the suggestion.
func (e *Error) Error() string {
	var b strings.Builder
	for i, m := range e.Mistakes {
		if i == most {
			fmt.Fprintf(&b, "\nand %d more", len(e.Mistakes)-most)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: %s", e.File, m.Line, m.Column, m.What)
		if strings.TrimSpace(m.Source) != "" {
			number := fmt.Sprintf("%5d", m.Line)
			fmt.Fprintf(&b, "\n%s | %s\n%s | %s%s", number, m.Source,
				strings.Repeat(" ", len(number)), blank(m.Source, m.Column-1), strings.Repeat("^", max(m.width, 1)))
		}
		if m.Hint != "" {
			fmt.Fprintf(&b, "\n      = %s", m.Hint)
		}
	}
	return b.String()
}

// blank is as wide on the screen as the first n characters of line: tabs stay tabs.
func blank(line string, n int) string {
	var b strings.Builder
	for _, r := range line {
		if n <= 0 {
			break
		}
		n--
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// reporter collects mistakes about one text.
type reporter struct {
	lines    []string
	mistakes []Mistake
}

func newReporter(text string) *reporter {
	return &reporter{lines: strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")}
}

func (r *reporter) add(at mark, hint, format string, args ...any) {
	m := Mistake{Line: max(at.line, 1), Column: max(at.column, 1), What: fmt.Sprintf(format, args...), Hint: hint}
	if m.Line <= len(r.lines) {
		m.Source = printable(r.lines[m.Line-1])
		m.width = min(at.width, utf8.RuneCountInString(m.Source)-m.Column+1)
	}
	r.mistakes = append(r.mistakes, m)
}

// printable keeps a hostile line from steering the terminal or filling it.
func printable(line string) string {
	const widest = 160
	var b strings.Builder
	n := 0
	for _, c := range line {
		if n++; n > widest {
			b.WriteString("…")
			break
		}
		if c != '\t' && (c < ' ' || c == 0x7f) {
			c = '\uFFFD'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// err is nil when nothing is wrong.
func (r *reporter) err(file string) error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b Mistake) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return &Error{File: file, Mistakes: r.mistakes}
}

// nearest is the one of names that was most likely meant by word, if any is close.
func nearest(word string, names []string) (string, bool) {
	word = strings.ToLower(word)
	best, closest := "", max(1, len(word)/3)+1 // up to a third of the letters, at least one, may be off
	for _, n := range names {
		if d := distance(word, n); d < closest {
			best, closest = n, d
		}
	}
	if best != "" {
		return best, true
	}
	for _, n := range names { // batch_size for batch, prob for problems
		if min(len(n), len(word)) >= 4 && (strings.HasPrefix(n, word) || strings.HasPrefix(word, n)) {
			return n, true
		}
	}
	return "", false
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours between a and b (optimal string alignment).
func distance(a, b string) int {
	ra, rb := []rune(a), []rune(b)
	if len(ra) > 64 || len(rb) > 64 { // no name is that long
		return max(len(ra), len(rb))
	}
	row := func() []int { return make([]int, len(rb)+1) }
	before, last, next := row(), row(), row()
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(ra); i++ {
		next[0] = i
		for j := 1; j <= len(rb); j++ {
			cost := 1
			if ra[i-1] == rb[j-1] {
				cost = 0
			}
			next[j] = min(last[j]+1, next[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && ra[i-1] == rb[j-2] && ra[i-2] == rb[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(rb)]
}
