{{/* Names and labels. A part is what one pod does: a service, or something bundled beside the services. */}}

{{- define "tally.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (list $ part): the name of the part's objects. */}}
{{- define "tally.name" -}}
{{- printf "%s-%s" (include "tally.fullname" (first .)) (last .) -}}
{{- end -}}

{{/* (list $ part): what selects the part's pods. */}}
{{- define "tally.selector" -}}
app.kubernetes.io/name: {{ default (first .).Chart.Name (first .).Values.nameOverride }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* (list $ part): the labels of the part's objects. */}}
{{- define "tally.labels" -}}
{{- $root := first . -}}
{{ include "tally.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tally
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list $ part): the labels of its pods: none that a new version of the chart changes, which would restart databases. */}}
{{- define "tally.podLabels" -}}
{{ include "tally.selector" . }}
app.kubernetes.io/part-of: tally
{{- with (first .).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list $ part): the metadata of the part's main object of a kind. */}}
{{- define "tally.metadata" -}}
name: {{ include "tally.name" . }}
namespace: {{ (first .).Release.Namespace }}
labels:
  {{- include "tally.labels" . | nindent 2 }}
{{- end -}}

{{- define "tally.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}
