package convert

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// journalName is the file in a partial directory that lists the bands done. Each
// line is a CRC-32C in hex, a space, JSON: first the conversion's identity, then a
// record for each band, after its bytes were written. A line that is torn or
// damaged ends the journal; what it lists is read back before it is believed.
const journalName = ".conversion.journal"

// record is one band done.
type record struct {
	Band   int64     `json:"band"`
	Writes []written `json:"writes"`
	Loss   deviation `json:"loss,omitzero"`
}

// written is some bytes of a step's output.
type written struct {
	Slot   int    `json:"slot,omitempty"`
	Offset int64  `json:"offset,omitempty"` // from the slot's base
	Length int64  `json:"length"`
	Sum    uint32 `json:"crc"`
}

type identityLine struct {
	Identity string `json:"identity"`
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// syncEvery is how many bytes may be written between two syncs to disk: what a
// power cut costs at most.
const syncEvery = 1 << 30

// journal is open for appending.
type journal struct {
	f *os.File

	mu    sync.Mutex
	since int64 // bytes of output since the last sync
}

// createJournal begins a journal.
func createJournal(dir, identity string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("begin journal: %w", err)
	}
	j := &journal{f: f}
	line, err := encodeLine(identityLine{identity})
	if err == nil {
		_, err = f.Write(line)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin journal: %w", err), f.Close())
	}
	return j, nil
}

// reopenJournal opens the journal of a directory if it is that of this conversion;
// otherwise it returns nil.
func reopenJournal(dir, identity string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read journal: %w", err), f.Close())
	}
	var id identityLine
	if !decodeLine(line, &id) || id.Identity != identity {
		return nil, f.Close()
	}
	return &journal{f: f}, nil
}

// replay calls each with the records of bands done, and cuts off what is torn.
func (j *journal) replay(each func(r *record) error) error {
	if _, err := j.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	good, err := readRecords(j.f, each)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if err := j.f.Truncate(good); err != nil {
		return fmt.Errorf("cut torn end off journal: %w", err)
	}
	return nil
}

// readRecords goes through the records up to the first line that is not whole, and
// returns where that begins.
func readRecords(r io.Reader, each func(r *record) error) (good int64, err error) {
	lines := bufio.NewReader(r)
	for first := true; ; first = false {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return good, nil
		}
		if err != nil {
			return good, err
		}
		if first {
			good += int64(len(line))
			continue
		}
		rec := new(record)
		if !decodeLine(line, rec) {
			return good, nil
		}
		if err := each(rec); err != nil {
			return good, err
		}
		good += int64(len(line))
	}
}

func encodeLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line := fmt.Appendf(nil, "%08x ", crc32.Checksum(b, castagnoli()))
	return append(append(line, b...), '\n'), nil
}

func decodeLine(line string, v any) bool {
	if len(line) < 10 || line[8] != ' ' || line[len(line)-1] != '\n' {
		return false
	}
	b := []byte(line[9 : len(line)-1])
	return line[:8] == fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli())) && json.Unmarshal(b, v) == nil
}

// append adds a record, in one write. Now and then it puts what was converted on
// disk, and after it the journal.
func (j *journal) append(r *record, files []*os.File) error {
	line, err := encodeLine(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.f.Write(line); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	for _, w := range r.Writes {
		j.since += w.Length
	}
	if j.since < syncEvery {
		return nil
	}
	j.since = 0
	for _, f := range files {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("write weights: %w", err)
		}
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}
