{{/* The services that are there, each in full: the defaults, and over them the service's own block. */}}
{{- define "tally.services" -}}
{{- range $name, $own := .Values.services }}
{{- $service := mergeOverwrite (deepCopy $.Values.defaults) $own }}
{{- range $service.calls }}
{{- if not (hasKey $.Values.services .) }}
{{- fail (printf "services.%s calls %s, which is not among the services" $name .) }}
{{- end }}
{{- end }}
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

{{/* Seconds that requests in flight are given: their deadline, and some time for what a late answer means. */}}
{{- define "tally.shutdownGrace" -}}
{{- add (ceil .Values.requestDeadlineSeconds | int) 3 -}}
{{- end -}}

{{/* Seconds until a pod that was told to stop is killed: more than it is promised. */}}
{{- define "tally.terminationGrace" -}}
{{- add .Values.preStopSeconds (include "tally.shutdownGrace" .) 5 -}}
{{- end -}}
