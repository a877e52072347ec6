package plan

import "slices"

// Interruption is one event that stops a campaign: when, and how long the node is away.
type Interruption struct {
	At, Repair Hours
}

// Campaign is one run on a pool that is interrupted now and then.
type Campaign struct {
	Work     Hours // of steps, if nothing happened
	Interval Hours // of steps between saves
	Save     Hours // that a save blocks
	Spares   int   // nodes that replace one under repair at once
}

// Outcome is where a campaign's wall time went. The parts add up to Wall.
type Outcome struct {
	Wall          Hours `json:"wall"`
	Useful        Hours `json:"useful"`
	Saving        Hours `json:"saving"`
	Lost          Hours `json:"lost"`
	Restarting    Hours `json:"restarting"`
	Waiting       Hours `json:"waiting"` // for a node, with no spare left
	Interruptions int   `json:"interruptions"`
}

// ETTR is the share of wall time that became kept steps.
func (o Outcome) ETTR() float64 {
	if o.Wall <= 0 {
		return 1
	}
	return float64(o.Useful / o.Wall)
}

// Run plays the campaign: next gives the interruptions in order of time,
// restart what each costs beside lost work. It stops at limit, with Useful
// below Work if that came first.
func (c Campaign) Run(next func() (Interruption, bool), restart func() Hours, limit Hours) Outcome {
	var o Outcome
	var away repairs
	event, more := next()
	for o.Useful < c.Work && o.Wall < limit {
		// One uninterrupted stretch, up to the next event.
		room := limit - o.Wall
		if more {
			room = min(room, max(0, event.At-o.Wall))
		}
		o.stretch(c, room)
		if !more || o.Useful >= c.Work || o.Wall >= limit {
			break
		}
		o.Interruptions++
		away.push(o.Wall + event.Repair)
		down := restart()
		end := o.Wall + down
		event, more = next()
		// Events during recovery start it again.
		for {
			ready := away.ready(end, c.Spares)
			if !more || event.At >= ready || ready >= limit {
				o.Waiting += ready - end
				o.Restarting += end - o.Wall
				o.Wall = ready
				break
			}
			o.Interruptions++
			away.push(event.At + event.Repair)
			end = max(end, event.At+restart())
			event, more = next()
		}
	}
	return o
}

// stretch runs for at most room, saving every interval; what was not saved when
// the room ends is lost, unless the work is done.
func (o *Outcome) stretch(c Campaign, room Hours) {
	left := c.Work - o.Useful
	cycle := c.Interval + c.Save
	full := Hours(int(float64(left) / float64(c.Interval)))
	if need := full*cycle + (left - full*c.Interval); need <= room {
		o.Useful, o.Wall, o.Saving = c.Work, o.Wall+need, o.Saving+full*c.Save
		return
	}
	cycles := Hours(int(float64(room) / float64(cycle)))
	o.Useful += cycles * c.Interval
	o.Saving += cycles * c.Save
	o.Lost += room - cycles*cycle
	o.Wall += room
}

// repairs is when the nodes under repair come back, the earliest first.
type repairs struct {
	ends []Hours
	from int // those before have come back
}

func (r *repairs) push(t Hours) {
	i, _ := slices.BinarySearch(r.ends[r.from:], t)
	r.ends = slices.Insert(r.ends, r.from+i, t)
}

// ready is when at most spares nodes are away, from now on.
func (r *repairs) ready(now Hours, spares int) Hours {
	for r.from < len(r.ends) && r.ends[r.from] <= now {
		r.from++
	}
	if r.from > 64 && r.from > len(r.ends)/2 {
		r.ends = r.ends[:copy(r.ends, r.ends[r.from:])]
		r.from = 0
	}
	if len(r.ends)-r.from <= spares {
		return now
	}
	return r.ends[len(r.ends)-spares-1]
}
