package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// message is the part of Alertmanager's webhook body that find reads.
type message struct {
	Alerts []struct {
		Status      string            `json:"status"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"alerts"`
}

// find returns the first body of the file, and the labels of its first alert,
// that fires for service and has every part of path in one annotation that
// tells a path. Both are empty if there is none.
func find(file, service string, path []string) (body, labels []byte, err error) {
	kept, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	for _, line := range bytes.Split(kept, []byte{'\n'}) {
		var got message
		if len(line) == 0 || json.Unmarshal(line, &got) != nil {
			continue // the last line may be half written
		}
		for _, alert := range got.Alerts {
			if alert.Status == "firing" && alert.Labels["service"] == service && tellsPath(alert.Annotations, path) {
				labels, err := json.Marshal(alert.Labels)
				return line, labels, err
			}
		}
	}
	return nil, nil, nil
}

func tellsPath(annotations map[string]string, parts []string) bool {
	if len(parts) == 0 {
		return true
	}
	for name, text := range annotations {
		if strings.Contains(name, "path") && containsAll(text, parts) {
			return true
		}
	}
	return false
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// printFound prints what find found and returns the exit code: 1 for nothing.
func printFound(file, service, path string, labelsOnly bool) int {
	body, labels, err := find(file, service, strings.FieldsFunc(path, func(r rune) bool { return r == ',' }))
	if err != nil {
		fmt.Fprintln(os.Stderr, "hook:", err)
		return 2
	}
	if body == nil {
		return 1
	}
	if labelsOnly {
		fmt.Printf("%s\n", labels)
		return 0
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, body, "", "  "); err != nil {
		fmt.Fprintln(os.Stderr, "hook:", err)
		return 2
	}
	fmt.Printf("%s\n", pretty.Bytes())
	return 0
}
