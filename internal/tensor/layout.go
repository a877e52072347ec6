package tensor

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Layout is a file before its data: where everything will lie.
type Layout struct {
	// Infos are in the order of their bytes, offsets and sizes set.
	Infos []Info
	// Size is that of the whole file.
	Size   int64
	header []byte // length word, JSON, padding
}

// Header is what the file begins with: length word, JSON, padding.
func (l *Layout) Header() []byte { return l.header }

// pyTorch is what readers of the Hugging Face family expect; some refuse a file without it.
func pyTorch() map[string]string { return map[string]string{"format": "pt"} }

// Plan lays a file out as the reference library does: tensors by falling type,
// then by name; the header padded with spaces to a multiple of eight. Of the
// given infos, name, type and shape count. Nil metadata stands for
// {"format":"pt"}, an empty map for none.
func Plan(tensors []Info, metadata map[string]string) (*Layout, error) {
	if metadata == nil {
		metadata = pyTorch()
	}
	l := &Layout{Infos: slices.Clone(tensors)}
	slices.SortStableFunc(l.Infos, func(a, b Info) int {
		return cmp.Or(cmp.Compare(b.DType, a.DType), cmp.Compare(a.Name, b.Name))
	})
	var text bytes.Buffer
	text.WriteByte('{')
	if len(metadata) > 0 {
		text.WriteString(`"__metadata__":{`)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				text.WriteByte(',')
			}
			writeString(&text, k)
			text.WriteByte(':')
			writeString(&text, metadata[k])
		}
		text.WriteByte('}')
	}
	var end int64
	seen := make(map[string]struct{}, len(tensors))
	for i := range l.Infos {
		info := &l.Infos[i]
		size, err := byteSize(info.DType, info.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", info.Name, err)
		}
		if _, ok := seen[info.Name]; ok || info.Name == "__metadata__" || !utf8.ValidString(info.Name) {
			return nil, fmt.Errorf("tensor %q: the name occurs twice, is reserved, or is not UTF-8", info.Name)
		}
		seen[info.Name] = struct{}{}
		if end+size < end {
			return nil, fmt.Errorf("tensor %q: the file would be longer than 63 bits count", info.Name)
		}
		info.Offset, info.Size = end, size
		end += size
		if text.Len() > 1 {
			text.WriteByte(',')
		}
		writeEntry(&text, *info)
	}
	text.WriteByte('}')
	for text.Len()%8 != 0 {
		text.WriteByte(' ')
	}
	if text.Len() > MaxHeader {
		return nil, fmt.Errorf("a header of %d bytes: readers accept %d; write more shards", text.Len(), MaxHeader)
	}
	l.header = append(binary.LittleEndian.AppendUint64(nil, uint64(text.Len())), text.Bytes()...)
	base := int64(len(l.header))
	for i := range l.Infos {
		l.Infos[i].Offset += base
	}
	l.Size = base + end
	return l, nil
}

func writeEntry(w *bytes.Buffer, i Info) {
	writeString(w, i.Name)
	w.WriteString(`:{"dtype":"`)
	w.WriteString(i.DType.String())
	w.WriteString(`","shape":[`)
	for j, d := range i.Shape {
		if j > 0 {
			w.WriteByte(',')
		}
		w.WriteString(strconv.FormatInt(d, 10))
	}
	fmt.Fprintf(w, `],"data_offsets":[%d,%d]}`, i.Offset, i.Offset+i.Size)
}

// writeString quotes as the reference library's serializer does: short escapes
// where JSON has them, \u00xx for other control characters, the rest as it is.
func writeString(w *bytes.Buffer, s string) {
	w.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			w.WriteByte('\\')
			w.WriteByte(c)
		case c >= ' ':
			w.WriteByte(c)
		default:
			if j := strings.IndexByte("\b\f\n\r\t", c); j >= 0 {
				w.WriteByte('\\')
				w.WriteByte("bfnrt"[j])
			} else {
				fmt.Fprintf(w, `\u%04x`, c)
			}
		}
	}
	w.WriteByte('"')
}
