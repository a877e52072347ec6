package server

import (
	"strings"
	"unicode/utf8"

	"tarbert/internal/reference/tokenizer"
)

// textStream turns the tokens of one sequence into text as they come. Bytes
// that do not yet end in a whole character are held back until they do, and
// dropped if they never do; as many characters as a stop string could still
// begin with are held back too, so that no client sees part of a stop string.
type textStream struct {
	tok         *tokenizer.Tokenizer
	skipSpecial bool
	stops       []string
	includeStop bool

	pending []byte // bytes since the text last ended in a whole character
	text    string // all text so far
	sent    int    // bytes of text already given to the client
	hold    int    // characters kept back until the end
}

func newTextStream(tok *tokenizer.Tokenizer, prompt []int, p params) *textStream {
	s := &textStream{tok: tok, skipSpecial: p.skipSpecial, stops: p.stop, includeStop: p.includeStop}
	if !p.includeStop {
		for _, stop := range p.stop {
			s.hold = max(s.hold, utf8.RuneCountInString(stop)-1)
		}
	}
	s.pending = openEnd(tok, prompt)
	return s
}

// openEnd returns the bytes of an unfinished character at the prompt's end:
// the first tokens generated may finish it.
func openEnd(tok *tokenizer.Tokenizer, prompt []int) []byte {
	tail := tok.DecodeBytes(prompt[max(0, len(prompt)-utf8.UTFMax):])
	for n := 1; n < utf8.UTFMax && n <= len(tail); n++ {
		end := tail[len(tail)-n:]
		if utf8.RuneStart(end[0]) {
			if end[0] >= utf8.RuneSelf && !utf8.FullRune(end) {
				return append([]byte(nil), end...)
			}
			return nil
		}
	}
	return nil
}

// add appends one token and returns the stop string it completed, if any; the
// text then ends before the stop string, or after it where it is to be shown.
// Stop strings are looked for in the new text only, and only where look is set.
func (s *textStream) add(id int, look bool) (stop string, stopped bool) {
	if s.skipSpecial && s.tok.Special(id) {
		return "", false
	}
	s.pending = append(s.pending, s.tok.TokenBytes(id)...)
	if r, _ := utf8.DecodeLastRune(s.pending); r == utf8.RuneError {
		return "", false // also where nothing is pending
	}
	fresh := tokenizer.Lossy(s.pending)
	s.pending = s.pending[:0]
	s.text += fresh
	if !look {
		return "", false
	}
	for _, stop := range s.stops {
		from := max(0, len(s.text)-len(fresh)-len(stop)+1)
		at := strings.Index(s.text[from:], stop)
		if at < 0 {
			continue
		}
		end := from + at
		if s.includeStop {
			end += len(stop)
		}
		s.text = s.text[:end]
		return stop, true
	}
	return "", false
}

// next returns the text that the client may see and has not.
func (s *textStream) next(finished bool) string {
	end := len(s.text)
	if !finished {
		for range s.hold {
			_, n := utf8.DecodeLastRuneInString(s.text[:end])
			end -= n
		}
	}
	if end <= s.sent {
		return ""
	}
	fresh := s.text[s.sent:end]
	s.sent = end
	return fresh
}

// contextTokens is how many tokens before one can still belong to its first
// character: UTF-8 has at most four bytes.
const contextTokens = 4

// tokenText is the text of one token in a list of log-probabilities: what it
// stands for on its own, or where that ends inside a character, what it
// completes together with the tokens before it; "" where it completes nothing.
func tokenText(tok *tokenizer.Tokenizer, before []int, id int) string {
	own := tok.TokenBytes(id)
	if whole(own) {
		return tokenizer.Lossy(own)
	}
	for n := 1; n <= min(contextTokens, len(before)); n++ {
		context := before[len(before)-n:]
		all := append(tok.DecodeBytes(context), own...)
		if !whole(all) {
			continue
		}
		clean := len(context)
		for clean > 0 && !whole(tok.TokenBytes(context[clean-1])) {
			clean--
		}
		prefix := tok.Decode(context[:clean])
		return strings.TrimPrefix(tokenizer.Lossy(all), prefix)
	}
	return ""
}

// whole reports whether b ends in a whole character.
func whole(b []byte) bool {
	r, _ := utf8.DecodeLastRune(b)
	return r != utf8.RuneError || len(b) == 0
}
