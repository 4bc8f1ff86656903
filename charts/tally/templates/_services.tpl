{{/* The services that are there, each in full: the defaults, and over them the service's own block. Nobody calls one that
     is not enabled. */}}
{{- define "tally.services" -}}
{{- range $name, $own := .Values.services }}
{{- $service := mergeOverwrite (deepCopy $.Values.defaults) $own }}
{{- $calls := list }}
{{- range $service.calls }}
{{- if not (hasKey $.Values.services .) }}
{{- fail (printf "services.%s calls %s, which is not among the services" $name .) }}
{{- end }}
{{- if dig "enabled" $.Values.defaults.enabled (get $.Values.services .) }}
{{- $calls = append $calls . }}
{{- end }}
{{- end }}
{{- $_ := set $service "calls" $calls }}
{{- if $service.enabled }}
{{ $name }}:
  {{- toYaml $service | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* (list $ service): the services that call it, as a YAML list. */}}
{{- define "tally.callers" -}}
{{- $called := last . -}}
{{- range $name, $service := include "tally.services" (first .) | fromYaml }}
{{- if has $called $service.calls }}
- {{ $name }}
{{- end }}
{{- end }}
{{- end -}}

{{/* (list $ key): the services that have this key of theirs on, as a YAML list. */}}
{{- define "tally.with" -}}
{{- $key := last . -}}
{{- range $name, $service := include "tally.services" (first .) | fromYaml }}
{{- if get $service $key }}
- {{ $name }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether a test may do what operators may; empty is no. */}}
{{- define "tally.disruptive" -}}
{{- if and .Values.tests.enabled .Values.tests.disruptive -}}true{{- end -}}
{{- end -}}

{{/* The tests that there are, as a YAML list of their files. */}}
{{- define "tally.tests" -}}
{{- if .Values.tests.enabled }}
- files/tests/walkthrough.py
{{- if include "tally.disruptive" . }}
- files/tests/service_down.py
{{- end }}
{{- end }}
{{- end -}}

{{/* (list $ account): the subject of a service account's tokens. */}}
{{- define "tally.subject" -}}
system:serviceaccount:{{ (first .).Release.Namespace }}:{{ include "tally.name" . }}
{{- end -}}

{{/* (list $ service): seconds until a request to it is answered: 60 at most, by the services' own settings. What its
     `settings` say holds, here and for what follows from it. */}}
{{- define "tally.deadline" -}}
{{- $root := first . -}}
{{- $service := last . -}}
{{- $seconds := addf $root.Values.requestDeadlineSeconds $service.extraDeadlineSeconds | minf 60 -}}
{{- get $service.settings "TALLY_REQUEST_DEADLINE_S" | default $seconds -}}
{{- end -}}

{{/* Seconds after which an epoch is closed: no request that records may be in flight any more. Those come from who calls
     halves and keeps none. */}}
{{- define "tally.settleLag" -}}
{{- $seconds := float64 .Values.requestDeadlineSeconds -}}
{{- $services := include "tally.services" . | fromYaml -}}
{{- range $services -}}
{{- $isSender := false -}}
{{- range .calls -}}
{{- if dig . "half" false $services -}}
{{- $isSender = true -}}
{{- end -}}
{{- end -}}
{{- if and $isSender (not .half) -}}
{{- $seconds = include "tally.deadline" (list $ .) | maxf $seconds -}}
{{- end -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{/* (list $ service): seconds that requests in flight are given: their deadline, and some time for what a late answer
     means. */}}
{{- define "tally.shutdownGrace" -}}
{{- $seconds := add (include "tally.deadline" . | ceil | int) 3 -}}
{{- get (last .).settings "TALLY_SHUTDOWN_GRACE_S" | default $seconds -}}
{{- end -}}

{{/* (list $ service): seconds until a pod that was told to stop is killed: more than it is promised. */}}
{{- define "tally.terminationGrace" -}}
{{- add (first .).Values.preStopSeconds (include "tally.shutdownGrace" . | ceil | int) 5 -}}
{{- end -}}
