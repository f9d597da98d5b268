// A second opinion on recorded histories: porcupine's verdict on the entries of a history, each as a
// register. It shares no code with the checker it is compared with; the format is described in
// jepsen-like/checker/README.md. Entries that can expire and aliases are left out: they go without a
// word in the history.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

type object = map[string]any

// A register: absent, or an entry as canonical JSON.
type state struct {
	there bool
	body  string
}

type action struct {
	kind  string // created, shown, there, absent, updated, deleted; with "maybe " if unknown
	entry object
}

// step says whether an action fits a state, and what follows.
func step(before, input, _ any) (bool, any) {
	s, a := before.(state), input.(action)
	switch a.kind {
	case "created":
		return !s.there, state{true, canonical(a.entry)}
	case "shown":
		return s.there && s.body == canonical(a.entry), s
	case "there":
		return s.there, s
	case "absent":
		return !s.there, s
	case "updated":
		return s.there && revision(parse(s.body))+1 == revision(a.entry), state{true, canonical(a.entry)}
	case "deleted":
		return s.there, state{}
	case "maybe created":
		if !s.there {
			return true, state{true, canonical(a.entry)}
		}
	case "maybe updated":
		if s.there {
			return true, state{true, canonical(updated(parse(s.body), a.entry))}
		}
	case "maybe deleted":
		return true, state{}
	}
	return true, s
}

func updated(old, update object) object {
	for name, value := range update {
		if name == "id" {
			continue
		}
		if name == "attributes" {
			all, _ := old[name].(object)
			if all == nil {
				all = object{}
			}
			for key, text := range value.(object) {
				all[key] = text
			}
			old[name] = all
			continue
		}
		old[name] = value
	}
	old["revision"] = revision(old) + 1
	return old
}

func revision(entry object) float64 {
	number, _ := entry["revision"].(float64)
	return number
}

// canonical leaves empty values out, so that absent and empty are the same.
func canonical(entry object) string {
	kept := object{}
	for name, value := range entry {
		switch v := value.(type) {
		case nil:
			continue
		case []any:
			if len(v) == 0 {
				continue
			}
		case object:
			if len(v) == 0 {
				continue
			}
		}
		kept[name] = value
	}
	text, _ := json.Marshal(kept)
	return string(text)
}

func parse(text string) object {
	var entry object
	_ = json.Unmarshal([]byte(text), &entry)
	return entry
}

type call struct {
	client     int
	op         any
	request    string
	invoked    int64
	completed  int64
	ok, failed bool
	reply      any
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: porcupine HISTORY")
		os.Exit(2)
	}
	calls, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	operations := byEntry(calls)
	ids := make([]string, 0, len(operations))
	for id := range operations {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	verdict, count := "ok", 0
	for _, id := range ids {
		count += len(operations[id])
		model := porcupine.Model{Init: func() any { return state{} }, Step: step}
		switch porcupine.CheckOperationsTimeout(model, operations[id], 20*time.Second) {
		case porcupine.Illegal:
			fmt.Printf("illegal %s\n", id)
			os.Exit(1)
		case porcupine.Unknown:
			verdict = "unknown"
		}
	}
	fmt.Printf("%s %d entries %d operations\n", verdict, len(ids), count)
	if verdict != "ok" {
		os.Exit(3)
	}
}

func read(path string) ([]*call, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	open := map[float64]*call{}
	var calls []*call
	for number := int64(1); lines.Scan(); number++ {
		var line struct {
			Event struct{ Invoke, Complete object }
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if invoke := line.Event.Invoke; invoke != nil {
			request, _ := invoke["request_id"].(string)
			client, _ := invoke["client"].(float64)
			c := &call{client: int(client), op: invoke["op"], request: request, invoked: number, completed: math.MaxInt64}
			open[invoke["call"].(float64)] = c
			calls = append(calls, c)
		}
		if complete := line.Event.Complete; complete != nil {
			c := open[complete["call"].(float64)]
			outcome, _ := complete["outcome"].(object)
			_, c.failed = outcome["failed"]
			if ok, is := outcome["ok"].(object); is {
				c.ok, c.reply, c.completed = true, ok["reply"], number
			}
		}
	}
	return calls, lines.Err()
}

// byEntry groups attempts of one request, then splits batches.
func byEntry(calls []*call) map[string][]porcupine.Operation {
	requests := map[string]*call{}
	var grouped []*call
	for _, c := range calls {
		if c.failed {
			continue
		}
		if c.request != "" {
			text, _ := json.Marshal(c.op)
			key := c.request + string(text)
			if first := requests[key]; first != nil {
				if !first.ok && c.ok {
					first.ok, first.reply, first.completed = true, c.reply, c.completed
				}
				continue
			}
			requests[key] = c
		}
		grouped = append(grouped, c)
	}
	left := map[string]bool{}
	found := map[string][]porcupine.Operation{}
	for client, c := range grouped {
		say := func(id, kind string, entry object) {
			found[id] = append(found[id], porcupine.Operation{
				ClientId: client, Input: action{kind, entry}, Call: c.invoked, Return: c.completed,
			})
		}
		op, _ := c.op.(object)
		for kind, body := range op {
			split(kind, body, c, say, left)
		}
	}
	for id := range left {
		delete(found, id)
	}
	return found
}

func split(kind string, body any, c *call, say func(string, string, object), left map[string]bool) {
	reply, _ := c.reply.(object)
	items, _ := reply["items"].([]any)
	list, _ := body.([]any)
	switch kind {
	case "get_entry":
		if entry, is := reply["entry"]; is && c.ok {
			id := body.(object)["id"].(string)
			if shown, there := entry.(object); there {
				say(id, "shown", shown)
			} else {
				say(id, "absent", nil)
			}
		}
	case "create_token":
		if alias, is := body.(object)["alias"].(object); is {
			left[alias["id"].(string)] = true
		}
	case "create_entries", "update_entries", "delete_entries":
		for at, element := range list {
			entry, _ := element.(object)
			id, _ := element.(string)
			if entry != nil {
				id = entry["id"].(string)
				if expires, _ := entry["expires_at_s"].(float64); expires != 0 || isAlias(entry) {
					left[id] = true
				}
			}
			if !c.ok {
				unknown := map[string]string{"create_entries": "maybe created", "update_entries": "maybe updated", "delete_entries": "maybe deleted"}
				if kind == "create_entries" {
					entry["revision"] = 0.0
				}
				say(id, unknown[kind], entry)
			} else if at < len(items) {
				item(id, items[at], say)
			}
		}
	}
}

func isAlias(entry object) bool {
	selectors, _ := entry["selectors"].([]any)
	for _, selector := range selectors {
		if strings.HasPrefix(selector.(string), "spiffe_id:") {
			return true
		}
	}
	return false
}

func item(id string, reply any, say func(string, string, object)) {
	if reply == "deleted" {
		say(id, "deleted", nil)
		return
	}
	for kind, value := range reply.(object) {
		entry, _ := value.(object)
		switch kind {
		case "created", "updated":
			say(id, kind, entry)
		case "similar":
			say(entry["id"].(string), "shown", entry)
		case "rejected":
			if value == "entry_not_found" {
				say(id, "absent", nil)
			}
			for _, name := range []string{"entry_id_taken", "entry_would_be_similar"} {
				if other, is := entry[name].(object); is {
					say(other["id"].(string), "there", nil)
				}
			}
		}
	}
}
