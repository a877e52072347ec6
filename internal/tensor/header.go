package tensor

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// MaxHeader is the largest header that is read or written, as in the reference library.
const MaxHeader = 100_000_000

// Info is where a tensor lies.
type Info struct {
	Name  string
	DType DType
	Shape []int64
	// Offset is that of the first byte from the start of the file; Size is in bytes.
	Offset, Size int64
	// File is the name, without folders, of the file that holds it.
	File string
}

// Elements is how many there are: 1 for a shape of no dimensions.
func (i Info) Elements() int64 {
	n := int64(1)
	for _, d := range i.Shape {
		n *= d
	}
	return n
}

// FormatError says what is wrong with a file, and where.
type FormatError struct {
	File   string
	Tensor string // empty where no single tensor is at fault
	Offset int64  // from the start of the file
	Reason string
}

func (e *FormatError) Error() string {
	if e.Tensor == "" {
		return fmt.Sprintf("%s: byte %d: %s", e.File, e.Offset, e.Reason)
	}
	return fmt.Sprintf("%s: tensor %q at byte %d: %s", e.File, e.Tensor, e.Offset, e.Reason)
}

// header is a parsed one: tensors in file order.
type header struct {
	infos    []Info
	index    map[string]int
	metadata map[string]string
}

// entry is an Info with the position of its name in the header's text.
type entry struct {
	Info
	begin, end int64
	pos        int
}

// parseHeader reads the JSON text of a header that begins at byte 8 of a file
// of size bytes.
func parseHeader(file, text string, size int64) (*header, error) {
	at := func(pos int, name, reason string) error {
		return &FormatError{File: file, Tensor: name, Offset: 8 + int64(pos), Reason: reason}
	}
	if !utf8.ValidString(text) {
		return nil, at(0, "", "the header is not UTF-8")
	}
	if text == "" || text[0] != '{' {
		return nil, at(0, "", "the header does not begin with '{': not a safetensors file")
	}
	sc := &scanner{s: text}
	h := &header{metadata: map[string]string{}}
	var entries []entry
	var current string
	seen := map[string]struct{}{}
	err := sc.object(func(key string) error {
		current = key
		if _, ok := seen[key]; ok {
			return &syntaxError{pos: -1, problem: "the name occurs twice, and readers differ on which of the two counts: write the file again"}
		}
		seen[key] = struct{}{}
		if key == "__metadata__" {
			return sc.stringMap(h.metadata)
		}
		e, err := sc.entry(key)
		entries = append(entries, e)
		return err
	})
	if err == nil {
		current = ""
		err = sc.end()
	}
	if err != nil {
		if e, ok := errors.AsType[*syntaxError](err); ok {
			return nil, at(e.pos, current, e.problem)
		}
		return nil, err
	}
	h.infos, err = place(file, entries, 8+int64(len(text)), size)
	if err != nil {
		return nil, err
	}
	h.index = make(map[string]int, len(h.infos))
	for i, info := range h.infos {
		h.index[info.Name] = i
	}
	return h, nil
}

// stringMap reads an object of strings, without repeated keys.
func (sc *scanner) stringMap(into map[string]string) error {
	return sc.object(func(key string) error {
		if _, ok := into[key]; ok {
			return &syntaxError{pos: -1, problem: fmt.Sprintf("%q occurs twice", key)}
		}
		value, err := sc.text()
		into[key] = value
		return err
	})
}

// entry reads one tensor's description.
func (sc *scanner) entry(name string) (entry, error) {
	e := entry{Info: Info{Name: name, Shape: []int64{}}, pos: sc.pos}
	var dtype, shape, offsets bool
	once := func(seen *bool, key string) error {
		if *seen {
			return sc.fail("%q occurs twice", key)
		}
		*seen = true
		return nil
	}
	err := sc.object(func(key string) error {
		switch key {
		case "dtype":
			if err := once(&dtype, key); err != nil {
				return err
			}
			s, err := sc.text()
			if err != nil {
				return err
			}
			var ok bool
			if e.DType, ok = ParseDType(s); !ok {
				return sc.fail("unknown dtype %q", s)
			}
			return nil
		case "shape":
			if err := once(&shape, key); err != nil {
				return err
			}
			return sc.list('[', ']', func() error {
				d, err := sc.integer()
				e.Shape = append(e.Shape, d)
				return err
			})
		case "data_offsets":
			if err := once(&offsets, key); err != nil {
				return err
			}
			return sc.offsets(&e)
		}
		return sc.fail("unknown field %q", key)
	})
	if err == nil && !(dtype && shape && offsets) {
		err = &syntaxError{pos: e.pos, problem: "dtype, shape or data_offsets is missing"}
	}
	return e, err
}

func (sc *scanner) offsets(e *entry) error {
	n := 0
	err := sc.list('[', ']', func() error {
		v, err := sc.integer()
		switch n++; n {
		case 1:
			e.begin = v
		case 2:
			e.end = v
		default:
			return sc.fail("data_offsets has more than two numbers")
		}
		return err
	})
	if err == nil && n != 2 {
		err = sc.fail("data_offsets has %d numbers instead of two", n)
	}
	return err
}

// place checks the entries against each other and the file, and puts them in
// the order of their bytes. Data begins at byte base.
func place(file string, entries []entry, base, size int64) ([]Info, error) {
	slices.SortStableFunc(entries, func(a, b entry) int {
		if a.begin != b.begin {
			return compareInt64(a.begin, b.begin)
		}
		return compareInt64(a.end, b.end)
	})
	infos := make([]Info, len(entries))
	var next int64
	for i, e := range entries {
		bad := func(format string, a ...any) error {
			return &FormatError{File: file, Tensor: e.Name, Offset: 8 + int64(e.pos), Reason: fmt.Sprintf(format, a...)}
		}
		want, err := byteSize(e.DType, e.Shape)
		switch {
		case err != nil:
			return nil, bad("%v", err)
		case e.begin < next:
			return nil, bad("its bytes %d to %d overlap those before, which end at %d", e.begin, e.end, next)
		case e.begin > next:
			return nil, bad("its bytes begin at %d and leave a hole after %d", e.begin, next)
		case e.end < e.begin:
			return nil, bad("its bytes end at %d, before they begin at %d", e.end, e.begin)
		case e.end-e.begin != want:
			return nil, bad("%s of shape %v takes %d bytes, but data_offsets give %d", e.DType, e.Shape, want, e.end-e.begin)
		case e.end > size-base:
			return nil, bad("its bytes end at %d, but the file has %d bytes of data: truncated; copy it again", e.end, size-base)
		}
		next = e.end
		e.Offset, e.Size = base+e.begin, want
		infos[i] = e.Info
	}
	if next != size-base {
		return nil, &FormatError{File: file, Offset: base + next, Reason: fmt.Sprintf(
			"%d bytes belong to no tensor", size-base-next)}
	}
	return infos, nil
}

func compareInt64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// byteSize is the size of a tensor, refused where it does not fit 63 bits or
// does not end on a byte.
func byteSize(d DType, shape []int64) (int64, error) {
	if !d.Valid() {
		return 0, errors.New("it has no dtype")
	}
	n := uint64(1)
	for _, dim := range shape {
		if dim < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		n = lo
	}
	hi, lo := bits.Mul64(n, uint64(d.Bits()))
	if hi != 0 || lo>>63 != 0 {
		return 0, fmt.Errorf("shape %v of %s overflows", shape, d)
	}
	if lo%8 != 0 {
		return 0, fmt.Errorf("shape %v of %s does not fill whole bytes", shape, d)
	}
	return int64(lo / 8), nil
}
